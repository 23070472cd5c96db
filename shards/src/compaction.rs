//! stub
use crate::ids::*;
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy { #[default] Leveled, Tiered }
impl Policy { pub(crate) fn tag(self)->u8{match self{Self::Leveled=>1,Self::Tiered=>2}} pub(crate) fn of_tag(t:u8)->Option<Self>{match t{1=>Some(Self::Leveled),2=>Some(Self::Tiered),_=>None}} }
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debt { pub bytes: u64 }
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Throttle { Free, Slow{bytes_per_second:u64}, Stop }
pub(crate) fn throttle(_:&Debt)->Throttle{Throttle::Free}
pub(crate) fn background_share(_:&Debt)->u32{100}
impl std::fmt::Display for Policy { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("x") } }
