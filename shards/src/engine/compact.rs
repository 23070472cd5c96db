//! stub
use super::{Engine, background::Turn};
impl Engine { pub(super) async fn compact_once(&self)->Turn{Turn::Wait} pub(super) fn measure_debt(&self){} }
