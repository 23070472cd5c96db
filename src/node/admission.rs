//! How a node comes to take part: it asks the others who the cluster is and whether it belongs to it, forms
//! it with them if nobody knows of one, and lets those in who belong to it.

pub(crate) mod desk;
pub(crate) mod entering;
pub(crate) mod exchange;
pub(crate) mod joining;
