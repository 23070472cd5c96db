//! The way of a request on its core: accepted by the server, read by its connection, sent on its way by the
//! router, handled for a shard of this core or forwarded to another one.

mod answers;
pub(crate) mod budget;
pub(crate) mod connection;
mod elsewhere;
pub(crate) mod forward;
mod gets;
pub(crate) mod handler;
mod places;
mod progress;
mod receive;
mod rejections;
pub(crate) mod router;
mod scan_views;
mod serve;
pub(crate) mod server;
mod slow_read;
mod uploads;
