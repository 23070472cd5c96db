//! Reads the crates of the workspace as trees of modules.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

pub(crate) const ROOT_PACKAGE: &str = "corelith";

/// A path as it is written, one name an element.
pub(crate) type Names = Vec<String>;

pub(crate) struct Crate {
    pub name: String,
    dir: PathBuf,
    /// By path from the root of the crate, without modules of tests.
    pub modules: BTreeMap<Names, Module>,
    files: BTreeSet<PathBuf>,
}

pub(crate) struct Module {
    pub file: PathBuf,
    pub text: String,
    pub syntax: syn::File,
    /// Every path that its code names, from `use` and elsewhere.
    pub paths: Vec<Names>,
    /// What `pub use` gives a name here: the name, and the path it stands for.
    pub exports: Vec<(String, Names)>,
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn manifest(dir: &Path) -> toml::Table {
    let path = workspace().join(dir).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap().parse().unwrap()
}

fn dirs() -> Vec<PathBuf> {
    let members = manifest(Path::new("."));
    let members = members["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|dir| dir.as_str().unwrap().into())
        .collect()
}

/// What the package `name` depends on outside of its tests.
pub(crate) fn manifest_dependencies(name: &str) -> Vec<String> {
    let of = dirs().into_iter().map(|dir| manifest(&dir));
    let mut of = of.filter(|manifest| manifest["package"]["name"].as_str() == Some(name));
    let manifest = of.next().unwrap_or_else(|| panic!("no package {name}"));
    manifest["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

/// All crates of the workspace.
pub(crate) fn crates() -> Vec<Crate> {
    dirs().iter().map(|dir| Crate::read(dir)).collect()
}

impl Crate {
    fn read(dir: &Path) -> Self {
        let name = manifest(dir)["package"]["name"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut read = Self {
            name,
            dir: dir.to_owned(),
            modules: BTreeMap::new(),
            files: BTreeSet::new(),
        };
        for root in ["lib.rs", "main.rs"] {
            let file = dir.join("src").join(root);
            if workspace().join(&file).exists() {
                let at = match root {
                    "lib.rs" => Vec::new(),
                    _ => vec!["(main)".to_owned()],
                };
                read.add(at, &file, &dir.join("src"), false);
            }
        }
        read
    }

    /// Reads a file, and those of the modules below it, whose folder is `below`.
    fn add(&mut self, at: Names, file: &Path, below: &Path, test: bool) {
        let text = std::fs::read_to_string(workspace().join(file))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let syntax = syn::parse_file(&text).unwrap();
        if !self.files.insert(file.to_owned()) {
            // One source of several modules is looked at once.
            return;
        }
        for item in &syntax.items {
            let Item::Mod(module) = item else { continue };
            if module.content.is_some() {
                continue;
            }
            let name = module.ident.to_string();
            let inner = below.join(&name);
            let mut path = at.clone();
            path.retain(|name| name != "(main)");
            path.push(name.clone());
            let test = test || is_test(&module.attrs);
            let place = match named_file(&module.attrs) {
                Some(named) => file.with_file_name(named),
                None => below.join(format!("{name}.rs")),
            };
            self.add(path, &place, &inner, test);
        }
        if !test {
            let mut found = Paths::default();
            found.visit_file(&syntax);
            let module = Module {
                file: file.to_owned(),
                text,
                syntax,
                paths: found.paths,
                exports: found.exports,
            };
            self.modules.insert(at, module);
        }
    }

    /// Source files of the crate that no module includes.
    pub(crate) fn files_outside(&self) -> Vec<String> {
        let mut stray = Vec::new();
        let mut dirs = vec![self.dir.join("src")];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(workspace().join(&dir)).unwrap() {
                let name = entry.unwrap().file_name();
                let path = dir.join(&name);
                let is_other_crate = path.join("Cargo.toml");
                if workspace().join(&path).is_dir() {
                    if !workspace().join(is_other_crate).exists() {
                        dirs.push(path);
                    }
                } else if path.extension().is_some_and(|extension| extension == "rs")
                    && !self.files.contains(&path)
                {
                    stray.push(path.display().to_string());
                }
            }
        }
        stray
    }
}

/// The file that `#[path]` names for a module.
fn named_file(attributes: &[Attribute]) -> Option<String> {
    let named = attributes.iter().find(|of| of.path().is_ident("path"))?;
    let syn::Expr::Lit(literal) = &named.meta.require_name_value().ok()?.value else {
        return None;
    };
    match &literal.lit {
        syn::Lit::Str(text) => Some(text.value()),
        _ => None,
    }
}

/// Whether an item is compiled for tests only.
pub(crate) fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg") || attribute.path().is_ident("test");
        is_cfg && {
            let text = match &attribute.meta {
                syn::Meta::List(list) => list.tokens.to_string(),
                _ => "test".to_owned(),
            };
            text == "test"
                || text == "doctest"
                || text.starts_with("all (test")
                || text.starts_with("all(test")
        }
    })
}

#[derive(Default)]
struct Paths {
    paths: Vec<Names>,
    exports: Vec<(String, Names)>,
}

impl Paths {
    fn walk(&mut self, tree: &UseTree, before: &mut Names, exported: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.walk(&path.tree, before, exported);
                before.pop();
            }
            UseTree::Name(name) => {
                let mut full = before.clone();
                if name.ident != "self" {
                    full.push(name.ident.to_string());
                }
                self.named(full.last().cloned().unwrap_or_default(), full, exported);
            }
            UseTree::Rename(rename) => {
                let mut full = before.clone();
                full.push(rename.ident.to_string());
                self.named(rename.rename.to_string(), full, exported);
            }
            UseTree::Glob(_) => self.paths.push(before.clone()),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.walk(tree, before, exported);
                }
            }
        }
    }

    fn named(&mut self, name: String, full: Names, exported: bool) {
        if exported {
            self.exports.push((name, full));
        } else {
            self.paths.push(full);
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let exported = !matches!(item.vis, Visibility::Inherited);
        self.walk(&item.tree, &mut Vec::new(), exported);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string());
        self.paths.push(names.collect());
        visit::visit_path(self, path);
    }
}
