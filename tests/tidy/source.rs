//! The project's sources as the rules see them: text, syntax, and a flat list of tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, ImplItem, Item};

/// One token and the line it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// One function outside of `#[cfg(test)]`, without what it hands to another thread.
pub struct Function {
    /// The type or trait that it is a function of; empty when there is none.
    pub of: String,
    pub ident: String,
    /// Its body.
    pub tokens: Vec<Token>,
}

impl Function {
    /// `Type::name`, or `name`.
    pub fn name(&self) -> String {
        match &*self.of {
            "" => self.ident.clone(),
            of => format!("{of}::{}", self.ident),
        }
    }
}

/// One Rust file.
pub struct Source {
    /// From the project's root, with `/`.
    pub path: String,
    pub text: String,
    pub syntax: syn::File,
    /// All tokens outside of `#[cfg(test)]`.
    pub tokens: Vec<Token>,
    /// All functions in them.
    pub functions: Vec<Function>,
    /// The file is compiled for tests only.
    pub is_test: bool,
}

/// Everything that the rules look at.
pub struct Project {
    pub sources: Vec<Source>,
    /// Other text files by path.
    pub texts: BTreeMap<String, String>,
}

impl Project {
    /// Reads the project below `root`.
    pub fn read(root: &Path) -> Project {
        let mut files = Vec::new();
        for part in ["src", "tests", "benches", "docs", "perf", "fuzz", ".ci"] {
            collect(&root.join(part), &mut files);
        }
        files.extend(["README.md", "Cargo.toml"].map(|name| root.join(name)));
        let read = |path: PathBuf| {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            String::from_utf8(text).ok().map(|text| (name, text))
        };
        Project::of(files.into_iter().filter_map(read))
    }

    /// A project of these files; those that end in `.rs` must be Rust.
    pub fn of(files: impl IntoIterator<Item = (String, String)>) -> Project {
        let (mut sources, mut texts) = (Vec::new(), BTreeMap::new());
        for (path, text) in files {
            if path.ends_with(".rs") {
                sources.push(Source::of(path, text));
            } else {
                texts.insert(path, text);
            }
        }
        let test_only = test_only_modules(&sources);
        for source in &mut sources {
            let is_outside = !source.path.starts_with("src/");
            source.is_test = is_outside || test_only.contains(&source.path);
        }
        Project { sources, texts }
    }

    /// The files of the program itself: below `src/`, tests left out.
    pub fn program(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| !source.is_test)
    }

    /// The Rust file at `path`.
    pub fn source(&self, path: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.path == path)
    }

    /// Another file's text, empty when there is none.
    pub fn text(&self, path: &str) -> &str {
        self.texts.get(path).map_or("", String::as_str)
    }
}

impl Source {
    fn of(path: String, text: String) -> Source {
        let syntax = syn::parse_file(&text).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut items = syntax.items.clone();
        drop_tests(&mut items);
        let mut functions = Vec::new();
        find_functions(&items, &mut functions);
        let mut tokens = Vec::new();
        for item in items {
            flatten(item.to_token_stream(), &mut tokens);
        }
        Source {
            path,
            text,
            syntax,
            tokens,
            functions,
            is_test: false,
        }
    }

    /// The module below `src/` that the file belongs to: `http` for `src/http/wire/head.rs`.
    pub fn module(&self) -> &str {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let first = path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The names of the file's module from the crate's root down.
    pub fn module_path(&self) -> Vec<&str> {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let path = path.strip_suffix(".rs").unwrap_or(path);
        let names = path
            .split('/')
            .filter(|name| !matches!(*name, "mod" | "lib" | "main"));
        names.collect()
    }

    /// Places where these tokens stand one after the other; `*` is any one token.
    pub fn find<'a>(&'a self, pattern: &'a [&'a str]) -> impl Iterator<Item = usize> + 'a {
        let fits = move |tokens: &[Token]| {
            let mut pairs = tokens.iter().zip(pattern);
            pairs.all(|(token, wanted)| *wanted == "*" || token.text == *wanted)
        };
        let windows = self.tokens.windows(pattern.len().max(1)).enumerate();
        windows
            .filter(move |(_, tokens)| fits(tokens))
            .map(|(index, _)| index)
    }

    /// `path:line: what`
    pub fn report(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Files below `directory` without what is built or not kept.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap_or_else(|e| panic!("{}: {e}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if matches!(
            &*name,
            "target" | "artifacts" | "corpus" | "corpus-run" | "record"
        ) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// Files of `mod` lines under `#[cfg(test)]`, and files of their own modules.
fn test_only_modules(sources: &[Source]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for source in sources {
        for module in modules(&source.syntax.items) {
            if is_for_tests(&module.attrs) {
                found.extend(module_files(source, &module));
            }
        }
    }
    let below = |path: &str| {
        let directory = |file: &String| format!("{}/", file.trim_end_matches(".rs"));
        found.iter().any(|file| path.starts_with(&directory(file)))
    };
    let nested = sources
        .iter()
        .map(|source| source.path.clone())
        .filter(|path| below(path));
    let nested: Vec<String> = nested.collect();
    found.extend(nested);
    found
}

/// The `mod name;` lines of a file.
pub fn modules(items: &[Item]) -> Vec<syn::ItemMod> {
    let lines = items.iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() => Some(module.clone()),
        _ => None,
    });
    lines.collect()
}

/// Where the file of a `mod name;` line of `source` may be.
pub fn module_files(source: &Source, module: &syn::ItemMod) -> Vec<String> {
    let (directory, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    if let Some(path) = module.attrs.iter().find_map(path_attribute) {
        return vec![normal(&format!("{directory}/{path}"))];
    }
    // A crate's root and a `mod.rs` have their modules beside them, others in their directory.
    let is_root = matches!(file, "mod.rs" | "lib.rs" | "main.rs")
        || directory == "tests"
        || directory.ends_with("fuzz_targets");
    let stem = file.trim_end_matches(".rs");
    let base = if is_root {
        directory.to_owned()
    } else {
        format!("{directory}/{stem}")
    };
    let name = &module.ident;
    vec![format!("{base}/{name}.rs"), format!("{base}/{name}/mod.rs")]
}

fn path_attribute(attribute: &Attribute) -> Option<String> {
    let syn::Meta::NameValue(pair) = &attribute.meta else {
        return None;
    };
    let is_path = pair.path.is_ident("path");
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(text),
            ..
        }) if is_path => Some(text.value()),
        _ => None,
    }
}

/// The path without `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = attribute
            .meta
            .to_token_stream()
            .to_string()
            .replace(' ', "");
        text == "test" || text.starts_with("cfg(") && text.contains("test")
    })
}

fn drop_tests(items: &mut Vec<Item>) {
    items.retain(|item| match item {
        Item::Mod(item) => !is_for_tests(&item.attrs),
        Item::Fn(item) => !is_for_tests(&item.attrs),
        Item::Impl(item) => !is_for_tests(&item.attrs),
        Item::Use(item) => !is_for_tests(&item.attrs),
        Item::Const(item) => !is_for_tests(&item.attrs),
        _ => true,
    });
    for item in items {
        match item {
            Item::Mod(syn::ItemMod {
                content: Some((_, items)),
                ..
            }) => drop_tests(items),
            Item::Impl(item) => item.items.retain(|item| match item {
                ImplItem::Fn(item) => !is_for_tests(&item.attrs),
                _ => true,
            }),
            _ => {}
        }
    }
}

fn find_functions(items: &[Item], out: &mut Vec<Function>) {
    let mut add = |of: &str, signature: &syn::Signature, block: &syn::Block| {
        let mut tokens = Vec::new();
        flatten(block.to_token_stream(), &mut tokens);
        out.push(Function {
            of: of.to_owned(),
            ident: signature.ident.to_string(),
            tokens: without_threads(tokens),
        });
    };
    for item in items {
        match item {
            Item::Fn(item) => add("", &item.sig, &item.block),
            Item::Impl(of) => {
                let name = type_name(&of.self_ty);
                for item in &of.items {
                    if let ImplItem::Fn(item) = item {
                        add(&name, &item.sig, &item.block);
                    }
                }
            }
            Item::Trait(of) => {
                for item in &of.items {
                    if let syn::TraitItem::Fn(syn::TraitItemFn {
                        sig,
                        default: Some(block),
                        ..
                    }) = item
                    {
                        add(&of.ident.to_string(), sig, block);
                    }
                }
            }
            _ => {}
        }
    }
    for item in items {
        if let Item::Mod(syn::ItemMod {
            content: Some((_, items)),
            ..
        }) = item
        {
            find_functions(items, out);
        }
    }
}

fn type_name(of: &syn::Type) -> String {
    match of {
        syn::Type::Path(path) => path.path.segments.last().map(|s| s.ident.to_string()),
        _ => None,
    }
    .unwrap_or_default()
}

/// What is left when closures that run on other threads are taken out.
fn without_threads(tokens: Vec<Token>) -> Vec<Token> {
    let mut left: Vec<Token> = Vec::new();
    let mut depth_outside = None;
    let mut depth = 0;
    for token in tokens {
        if token.text == ")" {
            depth -= 1;
        }
        if depth_outside == Some(depth) {
            depth_outside = None;
        }
        if token.text == "(" {
            if depth_outside.is_none() && is_thread_start(&left) {
                depth_outside = Some(depth);
                left.push(token.clone());
            }
            depth += 1;
        }
        if depth_outside.is_none() {
            left.push(token);
        }
    }
    left
}

/// Whether the tokens end in a call that starts a thread: `spawn_blocking`, `thread::spawn`,
/// `Builder::spawn`. Those of the runtimes run on the thread that calls them.
fn is_thread_start(tokens: &[Token]) -> bool {
    let back = |index: usize| {
        let index = tokens.len().checked_sub(index);
        index.map_or("", |index| &*tokens[index].text)
    };
    match back(1) {
        "spawn_blocking" => true,
        "spawn" => back(2) == "." || back(3) == "thread",
        _ => false,
    }
}

/// All tokens in order, delimiters included, doc comments left out.
fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                let end = group.span_close().start().line;
                out.push(Token {
                    text: open.to_owned(),
                    line,
                });
                flatten(group.stream(), out);
                out.push(Token {
                    text: close.to_owned(),
                    line: end,
                });
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => {
                let is_pair = matches!(trees.peek(),
                    Some(TokenTree::Punct(next)) if next.as_char() == ':');
                if is_pair {
                    trees.next();
                }
                let text = if is_pair { "::" } else { ":" };
                out.push(Token {
                    text: text.to_owned(),
                    line,
                });
            }
            other => out.push(Token {
                text: other.to_string(),
                line,
            }),
        }
    }
}
