//! The rules. Each takes the project and gives one line for every place that breaks it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use syn::spanned::Spanned;
use syn::visit::Visit;

use crate::source::{Project, Source, is_for_tests, module_files, modules};

/// Modules from the top down. Those of one layer never import each other, but for the last:
/// there only circles are forbidden.
const LAYERS: [&[&str]; 8] = [
    &["server"],
    &["api"],
    &["jobs"],
    &["repos"],
    &["snapshot", "store", "mirror", "restore"],
    &["archive", "git", "http", "tree"],
    &["manifest"],
    &[
        "access",
        "classes",
        "config",
        "extent",
        "faults",
        "io",
        "limits",
        "refs",
        "telemetry",
    ],
];

/// What a room imports nothing of, though it is below: the client is no server.
const APART: [(&str, &[&str]); 1] = [("restore", &["archive", "http"])];

pub fn imports_go_down(project: &Project) -> Vec<String> {
    let is_apart = |from: &str, to: &str| {
        APART
            .iter()
            .any(|(room, apart)| *room == from && apart.contains(&to))
    };
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut found = Vec::new();
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in project.program() {
        let from = source.module();
        for (line, to) in imports(source) {
            if from == to || matches!(from, "lib" | "main") {
                continue;
            }
            match (layer(from), layer(&to)) {
                (Some(above), Some(below)) if above < below && !is_apart(from, &to) => {}
                (Some(base), Some(other)) if base == other && base == LAYERS.len() - 1 => {
                    edges.entry(from.to_owned()).or_default().insert(to);
                }
                (Some(_), Some(_)) => {
                    let what =
                        format!("{from} imports {to}, which is beside, above or apart from it");
                    found.push(source.report(line, &what));
                }
                _ => found.push(source.report(line, &format!("no layer for {from} or {to}"))),
            }
        }
    }
    let circles = edges
        .keys()
        .filter(|module| reaches(&edges, module, module));
    found.extend(circles.map(|module| format!("src/{module}: imports itself in a circle")));
    found
}

/// The crate's modules that a file names, by `crate::` or by enough `super::`.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let supers = tokens[index..]
            .chunks(2)
            .take_while(|pair| pair[0].text == "super")
            .count();
        let start = match &*token.text {
            "crate" => index + 1,
            "super" if supers == source.module_path().len() => index + 2 * supers - 1,
            _ => continue,
        };
        if index > 0 && tokens[index - 1].text == "::" {
            continue;
        }
        let Some([colons, name]) = tokens.get(start..start + 2) else {
            continue;
        };
        if colons.text != "::" {
            continue;
        }
        if name.text != "{" {
            found.push((name.line, name.text.clone()));
            continue;
        }
        let mut depth = 0;
        for pair in tokens[start + 1..].windows(2) {
            match &*pair[0].text {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && matches!(&*pair[0].text, "{" | ",") && pair[1].text != "}" {
                found.push((pair[1].line, pair[1].text.clone()));
            }
        }
    }
    found
}

fn reaches(edges: &BTreeMap<String, BTreeSet<String>>, from: &str, goal: &str) -> bool {
    let (mut seen, mut left) = (HashSet::new(), vec![from]);
    while let Some(module) = left.pop() {
        for next in edges.get(module).into_iter().flatten() {
            if next == goal {
                return true;
            }
            if seen.insert(next.as_str()) {
                left.push(next);
            }
        }
    }
    false
}

/// Files that may hold unsafe code: each wraps one thing of the system that has no safe form.
const UNSAFE_FILES: [&str; 10] = [
    "src/io/child.rs",
    "src/io/disk.rs",
    "src/io/heap.rs",
    "src/io/net.rs",
    "src/io/pipe.rs",
    "src/io/residency.rs",
    "src/io/sched.rs",
    "src/io/signal.rs",
    "src/tree/iconv.rs",
    "src/tree/map.rs",
];

pub fn unsafe_is_confined_and_explained(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    for source in project.program() {
        let is_root = matches!(&*source.path, "src/lib.rs" | "src/main.rs");
        if is_root && !source.text.contains("#![deny(unsafe_code)]") {
            found.push(source.report(1, "the crate root does not deny unsafe code"));
        }
        if source.text.contains("allow(unsafe_code)") && !UNSAFE_FILES.contains(&&*source.path) {
            found.push(source.report(1, "unsafe allowed outside of the files named for it"));
        }
        for index in source.find(&["unsafe"]) {
            let line = source.tokens[index].line;
            if !UNSAFE_FILES.contains(&&*source.path) {
                found.push(source.report(line, "unsafe code outside of the files named for it"));
            } else if !comment_above(&source.text, line).contains("SAFETY:") {
                found.push(source.report(line, "unsafe without its SAFETY reason above"));
            }
        }
    }
    found
}

/// The comment above a line, with at most three lines of the same statement in between.
fn comment_above(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().take(line - 1).map(str::trim).collect();
    let is_comment = |line: &&&str| line.starts_with("//");
    let above = lines.iter().rev();
    let skip = above
        .clone()
        .take(3)
        .take_while(|line| !is_comment(line))
        .count();
    let comment = above.skip(skip).take_while(is_comment);
    comment.copied().collect::<Vec<_>>().join("\n")
}

const FUNCTION_LINES_MAX: usize = 70;
/// Functions that are a long table with a few lines of code.
const TABLES: [(&str, &str); 1] = [("src/snapshot/tests.rs", "attributes_convert_as_git_does")];

pub fn functions_fit_a_screen(project: &Project) -> Vec<String> {
    struct Functions<'a> {
        source: &'a Source,
        found: Vec<String>,
    }
    impl Functions<'_> {
        fn check(&mut self, signature: &syn::Signature, block: &syn::Block) {
            let start = signature.span().start().line;
            let lines = block.span().end().line - start + 1;
            let is_table = TABLES.contains(&(&*self.source.path, &*signature.ident.to_string()));
            if lines > FUNCTION_LINES_MAX && !is_table {
                let what = format!("{} has {lines} lines", signature.ident);
                self.found.push(self.source.report(start, &what));
            }
        }
    }
    impl<'a> Visit<'a> for Functions<'_> {
        fn visit_item_fn(&mut self, item: &'a syn::ItemFn) {
            self.check(&item.sig, &item.block);
            syn::visit::visit_item_fn(self, item);
        }
        fn visit_impl_item_fn(&mut self, item: &'a syn::ImplItemFn) {
            self.check(&item.sig, &item.block);
            syn::visit::visit_impl_item_fn(self, item);
        }
        fn visit_trait_item_fn(&mut self, item: &'a syn::TraitItemFn) {
            if let Some(block) = &item.default {
                self.check(&item.sig, block);
            }
            syn::visit::visit_trait_item_fn(self, item);
        }
    }
    let mut found = Vec::new();
    for source in &project.sources {
        let mut functions = Functions {
            source,
            found: Vec::new(),
        };
        functions.visit_file(&source.syntax);
        found.append(&mut functions.found);
    }
    found
}

const FILE_LINES_MAX: usize = 500;

/// A file of the program has one reason to exist; its tests do not count.
pub fn files_are_short(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    let program = project.program().filter(|s| s.path.starts_with("src/"));
    for source in program {
        let tests = source.syntax.items.iter().filter(|item| match item {
            syn::Item::Mod(item) => is_for_tests(&item.attrs),
            _ => false,
        });
        let in_tests = |item: &syn::Item| {
            let span = item.span();
            span.end().line - span.start().line + 1
        };
        let lines = source.text.lines().count() - tests.map(in_tests).sum::<usize>();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} lines", source.path));
        }
    }
    found
}

/// A child is started by the room that knows what a git may see and take, and nowhere else.
pub fn git_is_run_in_one_place(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    let program = project.program().filter(|s| s.path.starts_with("src/"));
    for source in program.filter(|source| source.module() != "git") {
        let starts = source.find(&["child", "::", "command"]);
        let named = source.find(&["Command", "::", "new", "(", "\"git\""]);
        for index in starts.chain(named) {
            let line = source.tokens[index].line;
            found.push(source.report(line, "a git that is not run by way of crate::git"));
        }
    }
    found
}

/// A panic is a decision: `expect` says why it cannot happen, `unwrap` says nothing.
pub fn panics_have_reasons(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    for source in project.program() {
        for index in source.find(&[".", "unwrap", "(", ")"]) {
            found.push(source.report(source.tokens[index].line, "unwrap without a reason"));
        }
        for index in source.find(&[".", "expect", "(", "*"]) {
            let reason = &source.tokens[index + 3].text;
            if reason.starts_with('"') && reason.split_whitespace().count() < 2 {
                found.push(source.report(source.tokens[index].line, "expect without a reason"));
            }
        }
    }
    found
}

/// Every file is compiled into something.
pub fn no_file_is_dead(project: &Project) -> Vec<String> {
    let mut left: Vec<String> = roots(project);
    let mut alive = HashSet::new();
    while let Some(path) = left.pop() {
        let Some(source) = project.source(&path) else {
            continue;
        };
        if alive.insert(path) {
            let lines = all_modules(&source.syntax.items);
            left.extend(lines.iter().flat_map(|module| module_files(source, module)));
        }
    }
    let dead = project
        .sources
        .iter()
        .filter(|source| !alive.contains(&source.path));
    dead.map(|source| source.report(1, "no module names this file"))
        .collect()
}

/// `mod name;` lines, also those inside of written out modules.
fn all_modules(items: &[syn::Item]) -> Vec<syn::ItemMod> {
    let mut found = modules(items);
    for item in items {
        if let syn::Item::Mod(syn::ItemMod {
            content: Some((_, items)),
            ..
        }) = item
        {
            found.extend(all_modules(items));
        }
    }
    found
}

/// Files that cargo compiles by itself or because a manifest names them.
pub fn roots(project: &Project) -> Vec<String> {
    let by_itself = |path: &String| {
        let parts: Vec<&str> = path.split('/').collect();
        matches!(
            parts[..],
            ["src", "lib.rs" | "main.rs"] | ["tests", _] | ["tests", _, "main.rs"]
        )
    };
    let paths = project.sources.iter().map(|source| source.path.clone());
    let mut roots: Vec<String> = paths.filter(by_itself).collect();
    for (manifest, text) in &project.texts {
        let Some(directory) = manifest.strip_suffix("Cargo.toml") else {
            continue;
        };
        let named = text
            .lines()
            .filter_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"'));
        roots.extend(named.map(|path| format!("{directory}{path}")));
    }
    roots
}

/// Bounds of a format or an algorithm, which nobody can change, stand where they are used.
const BOUNDS_ELSEWHERE: [(&str, &str); 7] = [
    ("src/config/value.rs", "LIMIT_DEFAULT"), // a limit's type around the number
    ("src/http/wire/head.rs", "NAME_BYTES_MAX"), // longest of the known header names
    ("src/extent/raw.rs", "INLINE_BYTES_MAX"), // follows from the zstd format
    ("src/tree/index.rs", "NAME_LEN_MAX"),    // field of git's index
    ("src/http/wire/body.rs", "DIGITS_MAX"),  // digits of an u64
    ("src/http/wire/response.rs", "BYTES_MAX"), // length of a formatted number
    ("src/http/wire/scan.rs", "VERSION_BYTES_MAX"), // length of `HTTP/1.1`
];

/// Every limit is used outside of `limits/`, and all stand there.
pub fn limits_are_in_one_place(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    let (limits, others): (Vec<&Source>, Vec<&Source>) = project
        .program()
        .partition(|source| source.module() == "limits");
    if limits.is_empty() {
        return vec!["src/limits: missing".to_owned()];
    }
    let used: HashSet<&str> = others
        .iter()
        .flat_map(|source| source.tokens.iter().map(|token| &*token.text))
        .collect();
    for source in limits {
        for index in source.find(&["pub", "const", "*"]) {
            let name = &source.tokens[index + 2];
            if !used.contains(&*name.text) {
                found.push(source.report(name.line, &format!("{} is used nowhere", name.text)));
            }
        }
    }
    for source in others {
        for index in source.find(&["const", "*", ":"]) {
            let name = &source.tokens[index + 1];
            let is_bound = name
                .text
                .split('_')
                .any(|word| matches!(word, "MAX" | "LIMIT" | "TIMEOUT"));
            if is_bound && !BOUNDS_ELSEWHERE.contains(&(&source.path, &name.text)) {
                found.push(source.report(name.line, &format!("{} belongs in limits", name.text)));
            }
        }
    }
    found
}

/// What is unfinished, left over from looking for a fault, or true of one machine only.
pub fn nothing_is_left_over(project: &Project) -> Vec<String> {
    // Taken apart, so that this file does not hold them.
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["db", "g!("],
        ["todo", "!("],
        ["unimpl", "emented!("],
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        ["/ho", "me/"],
    ];
    let sources = project
        .sources
        .iter()
        .map(|source| (&source.path, &source.text));
    let mut found = Vec::new();
    for (path, text) in sources.chain(&project.texts) {
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().map(|parts| parts.concat()) {
                if line.contains(&word) {
                    found.push(format!("{path}:{}: holds {word}", index + 1));
                }
            }
        }
    }
    found
}

/// Every metric is described in `docs/metrics.md`.
pub fn metrics_are_documented(project: &Project) -> Vec<String> {
    let described = project.text("docs/metrics.md");
    let Some(metrics) = project.source("src/telemetry/metrics/family.rs") else {
        return vec!["src/telemetry/metrics/family.rs: missing".to_owned()];
    };
    let mut found = Vec::new();
    for index in metrics.find(&["name", ":", "*"]) {
        let token = &metrics.tokens[index + 2];
        let name = token.text.trim_matches('"');
        if token.text.starts_with('"') && !described.contains(&format!("`{name}`")) {
            let what = format!("{name} is not in docs/metrics.md");
            found.push(metrics.report(token.line, &what));
        }
    }
    found
}

/// What the README, `docs/` and `perf/README.md` tell to type or to read exists: options of the
/// program in its help, scripts and pages in the tree.
pub fn readme_commands_exist(project: &Project, help: &str) -> Vec<String> {
    let mut found = Vec::new();
    let is_page = |path: &str| path == "README.md" || path.starts_with("docs/");
    for (path, text) in project.texts.iter().filter(|(path, _)| is_page(path)) {
        for word in options(text).filter(|word| *word != "--release" && !help.contains(word)) {
            found.push(format!("{path}: {word} is not an option"));
        }
    }
    let exists = |word: &str| {
        let sources = project.sources.iter().map(|source| &source.path);
        let mut all = project.texts.keys().chain(sources);
        all.any(|file| file.starts_with(word))
    };
    let is_read = |path: &str| is_page(path) || path == "perf/README.md";
    for (path, text) in project.texts.iter().filter(|(path, _)| is_read(path)) {
        let words = text.split(|c: char| c.is_whitespace() || "`(),;[]".contains(c));
        let words = words.map(|word| word.trim_end_matches('.'));
        for word in words.filter(|word| is_place(word) && !exists(word)) {
            found.push(format!("{path}: {word} does not exist"));
        }
    }
    found
}

/// Links of the README, `docs/` and `perf/README.md` lead to files of the tree, and to headings that these have.
pub fn links_hold(project: &Project) -> Vec<String> {
    let is_page = |path: &str| path.starts_with("docs/") || path.ends_with("README.md");
    let pages = project.texts.iter().filter(|(path, _)| is_page(path));
    let mut found = Vec::new();
    for (path, text) in pages {
        let links = text.split("](").skip(1);
        let links = links
            .filter_map(|rest| rest.split_once(')'))
            .map(|(link, _)| link);
        for link in links.filter(|link| !link.contains("://")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let file = match (file, directory) {
                ("", _) => path.clone(),
                (file, "") => file.to_owned(),
                (file, directory) => format!("{directory}/{file}"),
            };
            let there = project.texts.get(&file);
            let has = |text: &String| heading.is_empty() || headings(text).any(|h| h == heading);
            if !there.is_some_and(has) {
                found.push(format!("{path}: {link} leads nowhere"));
            }
        }
    }
    found
}

/// What a page's headings are called in links: small, without signs, a dash for each blank.
fn headings(text: &str) -> impl Iterator<Item = String> {
    // Every second piece is code, where such a line is a comment.
    let prose = text.split("\n```").step_by(2);
    let lines = prose.flat_map(str::lines);
    let titles = lines.filter_map(|line| {
        line.trim_start_matches('#')
            .strip_prefix(' ')
            .filter(|_| line.starts_with('#'))
    });
    titles.map(|title| {
        let kept = title.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
            _ => None,
        });
        kept.collect()
    })
}

/// The options of tarpon that a page names. Those of other programs are in the same line as their
/// names.
fn options(text: &str) -> impl Iterator<Item = &str> {
    let others = [
        "curl",
        "git clone",
        "git config",
        "git submodule",
        "git checkout",
        "cargo bench",
        "cargo install",
        "perf/",
        "buildkite-agent",
    ];
    let ours = text
        .lines()
        .filter(move |line| !others.iter().any(|other| line.contains(other)));
    let words =
        ours.flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')));
    words.filter(|word| word.len() > 3 && word.starts_with("--") && !word.starts_with("---"))
}

/// Whether a word names a script or a page of the project.
fn is_place(word: &str) -> bool {
    let starts = ["perf/", "fuzz/", ".ci/", "docs/"];
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || b"/._".contains(&byte);
    starts.iter().any(|start| word.starts_with(start))
        && word.bytes().all(is_plain)
        && !word.ends_with('/')
}

/// Every option of the command line, which is every key of the configuration file, is in the help
/// and says what it is.
pub fn settings_are_documented(project: &Project, help: &str) -> Vec<String> {
    let mut found = Vec::new();
    for source in project
        .program()
        .filter(|source| source.module() == "config")
    {
        for item in &source.syntax.items {
            let syn::Item::Struct(item) = item else {
                continue;
            };
            if !item.ident.to_string().ends_with("Args") {
                continue;
            }
            for field in &item.fields {
                let name = field
                    .ident
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let given = field.attrs.iter().find_map(|attribute| {
                    let text = source_of(attribute).replace(' ', "");
                    let (_, after) = text.split_once("long=\"")?;
                    after.split('"').next().map(ToOwned::to_owned)
                });
                let flag = format!("--{}", given.unwrap_or_else(|| name.replace('_', "-")));
                let has = |wanted: &str| field.attrs.iter().any(|a| a.path().is_ident(wanted));
                let is_option = field.attrs.iter().any(|attribute| {
                    attribute.path().is_ident("arg") && source_of(attribute).contains("long")
                });
                let is_shown = help
                    .split_whitespace()
                    .any(|word| word.split(['[', '=']).next() == Some(&flag));
                if is_option && !(has("doc") && is_shown) {
                    let line = field.span().start().line;
                    found.push(source.report(line, &format!("{flag} is not in the help")));
                }
            }
        }
    }
    found
}

/// Every variable that the code names by its whole name is one that `serve` takes for known.
pub fn variables_are_settings(project: &Project) -> Vec<String> {
    let mut found = Vec::new();
    for source in project.program() {
        for token in &source.tokens {
            let name = token.text.trim_matches('"');
            let is_variable = name.len() > "TARPON_".len()
                && token.text.starts_with("\"TARPON_")
                && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
            if is_variable && !tarpon::config::unknown_variables([name]).is_empty() {
                found.push(source.report(token.line, &format!("{name} is no known setting")));
            }
        }
    }
    found
}

/// Where files of the project stand; what is cited below one of these must be there.
const CITED: [&str; 6] = ["src/", "tests/", "perf/", "docs/", "fuzz/", "benches/"];

/// A comment names no file or directory of the project that is not there.
pub fn comments_cite_what_is_there(project: &Project) -> Vec<String> {
    let paths: BTreeSet<&str> = project
        .sources
        .iter()
        .map(|source| &*source.path)
        .chain(project.texts.keys().map(String::as_str))
        .collect();
    let is_there = |cited: &str| {
        let below = format!("{cited}/");
        // Not read: what is generated, and the records.
        let is_left_out = ["perf/record", "fuzz/corpus", "tests/parity/data"]
            .iter()
            .any(|part| cited.starts_with(part));
        is_left_out
            || paths.iter().any(|path| {
                *path == cited
                    || path.starts_with(&below)
                    || path.strip_suffix(".rs") == Some(cited)
            })
    };
    let mut found = Vec::new();
    for source in &project.sources {
        for (index, line) in source.text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else {
                continue;
            };
            let is_end = |c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c));
            for word in comment.split(is_end) {
                let cited = word.trim_end_matches(['.', '/']);
                let is_cited = CITED.iter().any(|root| cited.starts_with(root));
                if is_cited && !is_there(cited) {
                    found.push(source.report(index + 1, &format!("{cited} is not there")));
                }
            }
        }
    }
    found
}

/// Where updates change working copies.
const UPDATES: [&str; 4] = [
    "src/restore/renew/",
    "src/restore/renew.rs",
    "src/restore/moves.rs",
    "src/restore/put.rs",
];

/// What an update does to a working copy goes through `restore::steps`, so that tests end it wherever it can be ended.
pub fn updates_go_in_steps(project: &Project) -> Vec<String> {
    let by_path = [
        "copy",
        "create_dir",
        "create_dir_all",
        "hard_link",
        "remove_dir",
        "remove_dir_all",
        "remove_file",
        "rename",
        "set_permissions",
        "symlink",
        "write",
    ];
    let opened = ["create", "create_new"];
    let calls = [
        "linkat",
        "mkdirat",
        "renameat",
        "renameat_with",
        "symlinkat",
        "unlinkat",
    ];
    let by_path = by_path.map(|name| ["fs", "::", name, "("]);
    let patterns = by_path.iter().map(|pattern| &pattern[..]);
    let opened = opened.map(|name| ["File", "::", name, "("]);
    let patterns = patterns.chain(opened.iter().map(|pattern| &pattern[..]));
    let calls = calls.map(|name| [name, "("]);
    let patterns: Vec<&[&str]> = patterns.chain(calls.iter().map(|call| &call[..])).collect();
    let mut found = Vec::new();
    for source in project.program() {
        if !UPDATES.iter().any(|place| source.path.starts_with(place)) {
            continue;
        }
        for pattern in &patterns {
            for index in source.find(pattern) {
                let what = format!("{} is no step of restore::steps", pattern.concat());
                found.push(source.report(source.tokens[index].line, &what));
            }
        }
    }
    found
}

fn source_of(attribute: &syn::Attribute) -> String {
    quote::ToTokens::to_token_stream(&attribute.meta).to_string()
}
