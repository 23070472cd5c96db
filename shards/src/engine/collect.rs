//! stub
use super::{Engine, background::Turn};
impl Engine { pub(super) async fn collect_once(&self)->Turn{Turn::Wait} pub(super) fn garbage_report(&self)->crate::vlog::GarbageReport{crate::vlog::GarbageReport{total_bytes:0,garbage_bytes:0}} }
