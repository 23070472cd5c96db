//! The value log: values too long to be moved by every compaction, each written once.

mod pointer;

pub use pointer::ValuePointer;
pub(crate) use pointer::record_bytes;
use crate::ids::*; use crate::error::*; use std::rc::Rc; use bytes::Bytes;
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);
pub(crate) struct Segments;
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentMeta { pub id: ValueSegmentId, pub generation: u32, pub records: u64, pub bytes: u64, pub highest: LogIndex, pub file_bytes: u64 }
#[derive(Clone)]
pub(crate) struct ValueLog;
impl ValueLog {
 pub(crate) fn segments(&self)->Rc<Segments>{Rc::new(Segments)}
 pub(crate) fn sealed(&self)->(Vec<SegmentMeta>,ValueSegmentId){(vec![],ValueSegmentId(0))}
 pub(crate) fn stage(&self,_:LogIndex,_:&[u8],_:Bytes)->(ValuePointer,Ticket){panic!()}
 pub(crate) async fn wait_for_room(&self)->Result<()>{Ok(())}
 pub(crate) async fn wait_durable(&self,_:Ticket)->Result<()>{Ok(())}
 pub(crate) async fn read(&self,_:&Segments,_:ValuePointer,_:Option<&[u8]>)->Result<Bytes>{panic!()}
 pub(crate) async fn read_range(&self,_:&Segments,_:ValuePointer,_:std::ops::Range<u64>)->Result<Bytes>{panic!()}
 pub(crate) fn is_disk_full(&self)->bool{false}
 pub(crate) async fn remove_obsolete(&self){}
}
pub(crate) struct GarbageReport{pub total_bytes:u64,pub garbage_bytes:u64}
