//! shim
use super::*;
use crate::error::Result;
use crate::ids::LogIndex;
use std::rc::Rc;
pub(crate) struct SequentialCursor {
    table: Rc<Table>,
    cursor: TableCursor,
}
impl SequentialCursor {
    pub(crate) async fn start(table: &Rc<Table>) -> Result<Option<Self>> {
        let c = TableCursor::seek(table, &[], LogIndex(u64::MAX)).await?;
        Ok(c.map(|cursor| Self {
            table: Rc::clone(table),
            cursor,
        }))
    }
    pub(crate) fn current(&self) -> (&[u8], LogIndex, &Value) {
        self.cursor.current()
    }
    pub(crate) async fn advance(&mut self) -> Result<bool> {
        self.cursor.advance(&self.table).await
    }
}
