//! Files that import each other in a circle. A file is imported by whoever names it or what it
//! defines; what a module only hands on from the modules below it counts as theirs.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::roots;
use crate::source::{Project, Source, Token, is_for_tests, module_files, modules};

/// A module: the file of its crate's root, and its names from there down.
type Module = (String, Vec<String>);

/// The modules of all crates, and what each hands on.
struct Modules<'p> {
    files: BTreeMap<Module, &'p Source>,
    /// Name in a module to the path, as written there, that it stands for.
    handed_on: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
}

/// One line for each circle of files, wherever in the project.
pub fn no_circles(project: &Project) -> Vec<String> {
    let modules = Modules::of(project);
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, source) in &modules.files {
        for (_, to) in modules.imports(module, source) {
            edges.entry(&source.path).or_default().insert(to);
        }
    }
    let mut found = BTreeSet::new();
    for start in edges.keys() {
        if let Some(circle) = shortest_circle(&edges, start) {
            // Begins with the same file wherever it was found.
            let least = circle.iter().min().unwrap_or(start);
            if least == start {
                found.insert(format!("{}: a circle of imports", circle.join(" -> ")));
            }
        }
    }
    found.into_iter().collect()
}

/// The shortest way from a file back to itself.
fn shortest_circle<'p>(
    edges: &BTreeMap<&'p str, BTreeSet<&'p str>>,
    start: &'p str,
) -> Option<Vec<&'p str>> {
    let mut ways = std::collections::VecDeque::from([vec![start]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = way.last()?;
        for next in edges.get(last).into_iter().flatten() {
            if *next == start {
                return Some(way);
            }
            if seen.insert(*next) {
                ways.push_back([&way[..], &[*next]].concat());
            }
        }
    }
    None
}

impl<'p> Modules<'p> {
    fn of(project: &'p Project) -> Modules<'p> {
        let mut found = Modules {
            files: BTreeMap::new(),
            handed_on: BTreeMap::new(),
        };
        for path in roots(project) {
            if let Some(source) = project.source(&path) {
                found.add(project, (path, Vec::new()), source);
            }
        }
        found
    }

    fn add(&mut self, project: &'p Project, module: Module, source: &'p Source) {
        for below in modules(&source.syntax.items) {
            let files = module_files(source, &below);
            let file = files.iter().find_map(|path| project.source(path));
            // Tests of a module know all of it, and nobody knows them.
            if let Some(file) = file.filter(|_| !is_for_tests(&below.attrs)) {
                let mut names = module.1.clone();
                names.push(below.ident.to_string());
                self.add(project, (module.0.clone(), names), file);
            }
        }
        let handed_on = self.handed_on.entry(module.clone()).or_default();
        for path in paths(&source.tokens) {
            if let (true, Some(name)) = (path.is_public_use, path.names.last()) {
                handed_on.insert(name.clone(), path.names.clone());
            }
        }
        self.files.insert(module, source);
    }

    /// The files that a file imports, each with the line where it does.
    fn imports(&self, module: &Module, source: &'p Source) -> Vec<(usize, &'p str)> {
        let mut found = Vec::new();
        for path in paths(&source.tokens) {
            let Some(to) = self.resolve(module, &path.names, 0) else {
                continue;
            };
            let is_below = to.1.len() > module.1.len() && to.1.starts_with(&module.1);
            let file: &'p str = &self.files[&to].path;
            if file != source.path && !(path.is_public_use && is_below) {
                found.push((path.line, file));
            }
        }
        found
    }

    /// The module that defines what `names`, as written in `module`, leads to.
    fn resolve(&self, module: &Module, names: &[String], depth: usize) -> Option<Module> {
        let mut at = module.clone();
        let mut names = names.iter().map(String::as_str).peekable();
        match names.peek().copied()? {
            "crate" => {
                names.next();
                at.1.clear();
            }
            "self" => drop(names.next()),
            "super" => {
                while names.next_if_eq(&"super").is_some() {
                    at.1.pop()?;
                }
            }
            first if self.below(&at, first).is_some() => {}
            _ => return None,
        }
        while let Some(next) = names.peek().and_then(|name| self.below(&at, name)) {
            at = next;
            names.next();
        }
        let handed_on = names
            .peek()
            .and_then(|name| self.handed_on.get(&at)?.get(*name));
        match handed_on {
            Some(path) if depth < 8 => self.resolve(&at, path, depth + 1).or(Some(at)),
            _ => Some(at),
        }
    }

    fn below(&self, module: &Module, name: &str) -> Option<Module> {
        let mut below = module.clone();
        below.1.push(name.to_owned());
        self.files.contains_key(&below).then_some(below)
    }
}

/// A path as it is written.
struct Path {
    line: usize,
    names: Vec<String>,
    is_public_use: bool,
}

/// All paths of more than one name, groups taken apart.
fn paths(tokens: &[Token]) -> Vec<Path> {
    let text = |index: usize| tokens.get(index).map_or("", |token| &*token.text);
    let mut found = Vec::new();
    let mut statement = 0;
    for index in 0..tokens.len() {
        if matches!(text(index), ";" | "{" | "}") {
            statement = index + 1;
        }
        let is_start = is_name(text(index)) && text(index + 1) == "::";
        let is_inner = index > 0 && matches!(text(index - 1), "::");
        // `pub(in crate::x)` imports nothing.
        let is_visibility = index > 1 && text(index - 1) == "in";
        if !is_start || is_inner || is_visibility {
            continue;
        }
        let is_public_use =
            text(statement) == "pub" && tokens[statement..index].iter().any(|t| t.text == "use");
        let mut names = Vec::new();
        expand(tokens, index, &mut Vec::new(), &mut names);
        found.extend(names.into_iter().map(|names| Path {
            line: tokens[index].line,
            names,
            is_public_use,
        }));
    }
    found
}

fn is_name(text: &str) -> bool {
    let first = text.chars().next();
    first.is_some_and(|c| c.is_alphabetic() || c == '_')
}

/// Follows a path from `index` on; `before` is what stands before it. Returns where it ends.
fn expand(
    tokens: &[Token],
    mut index: usize,
    before: &mut Vec<String>,
    out: &mut Vec<Vec<String>>,
) -> usize {
    let text = |index: usize| tokens.get(index).map_or("", |token| &*token.text);
    let length = before.len();
    loop {
        if text(index) == "{" {
            index += 1;
            while !matches!(text(index), "}" | "") {
                match text(index) {
                    "," => index += 1,
                    _ => index = expand(tokens, index, before, out),
                }
            }
            index += 1;
            break;
        }
        let is_glob = text(index) == "*";
        if is_glob || is_name(text(index)) {
            if !is_glob {
                before.push(text(index).to_owned());
            }
            index += 1;
        }
        if text(index) != "::" || is_glob {
            out.push(before.clone());
            if text(index) == "as" {
                index += 2;
            }
            break;
        }
        index += 1;
    }
    before.truncate(length);
    // Whatever is no path of a group is passed over.
    if !matches!(text(index), "," | "}" | ";" | "") && length > 0 {
        index += 1;
    }
    index
}
