//! Rules in tables, figures by simulation, and random shapes.

mod figures;
mod model;
mod properties;
mod rules;
pub(super) mod text;
