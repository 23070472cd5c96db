//! Figures of the source: sizes, assertions, names that mean two things. `cargo test --test structure figures
//! -- --nocapture` prints them.

use crate::source::{Crate, is_test};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use syn::visit::{self, Visit};

/// How many of the longest are kept.
const LONGEST: usize = 5;

#[derive(Default)]
pub(crate) struct Figures {
    pub longest_files: Vec<(usize, String)>,
    pub longest_functions: Vec<(usize, String)>,
    pub functions: usize,
    pub assertions: usize,
    /// Public and crate-wide types of one name in more than one module.
    pub duplicate_names: Vec<String>,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_function = self.assertions as f64 / self.functions.max(1) as f64;
        writeln!(
            f,
            "{} assertions in {} functions: {per_function:.3}",
            self.assertions, self.functions
        )?;
        for (lines, what) in self.longest_files.iter().chain(&self.longest_functions) {
            writeln!(f, "{lines} lines: {what}")?;
        }
        let names = &self.duplicate_names;
        write!(
            f,
            "{} names of types mean several things: {}",
            names.len(),
            names.join(" ")
        )
    }
}

pub(crate) fn measure(crates: &[Crate]) -> Figures {
    let mut figures = Figures::default();
    let mut types: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for module in crates.iter().flat_map(|of| of.modules.values()) {
        let file = module.file.display().to_string();
        let tests = module
            .text
            .find("#[cfg(test)]\nmod tests {")
            .unwrap_or(module.text.len());
        figures
            .longest_files
            .push((module.text[..tests].lines().count(), file.clone()));
        let mut code = Code {
            figures: &mut figures,
            types: &mut types,
            file: &file,
        };
        code.visit_file(&module.syntax);
    }
    for longest in [&mut figures.longest_files, &mut figures.longest_functions] {
        longest.sort_by(|a, b| b.cmp(a));
        longest.truncate(LONGEST);
    }
    let several = types.into_iter().filter(|(_, files)| files.len() > 1);
    figures.duplicate_names = several
        .map(|(name, files)| format!("{name}({})", files.len()))
        .collect();
    figures
}

struct Code<'a> {
    figures: &'a mut Figures,
    types: &'a mut BTreeMap<String, BTreeSet<String>>,
    file: &'a str,
}

impl Code<'_> {
    fn function(&mut self, name: &syn::Ident, block: &syn::Block) {
        let braces = block.brace_token.span;
        let lines = braces.close().end().line + 1 - name.span().start().line;
        self.figures.functions += 1;
        self.figures
            .longest_functions
            .push((lines, format!("{}: {name}", self.file)));
    }

    fn of_type(&mut self, name: &syn::Ident) {
        self.types
            .entry(name.to_string())
            .or_default()
            .insert(self.file.to_owned());
    }
}

impl<'ast> Visit<'ast> for Code<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig.ident, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.of_type(&item.ident);
        visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.of_type(&item.ident);
        visit::visit_item_enum(self, item);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        let name = mac
            .path
            .segments
            .last()
            .map(|segment| segment.ident.to_string());
        let is_assertion =
            name.is_some_and(|name| name.starts_with("assert") || name.starts_with("debug_assert"));
        self.figures.assertions += usize::from(is_assertion);
    }
}
