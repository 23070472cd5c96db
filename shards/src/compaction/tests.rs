//! Rules in tables, figures by simulation, and whatever shape chance makes.

mod figures;
mod model;
mod properties;
mod rules;
pub(super) mod text;
