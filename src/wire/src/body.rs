//! Frame bodies: rkyv messages, written directly into the outgoing buffer and read in place.

use crate::error::DecodeError;
use bytes::BytesMut;
use rkyv::Portable;
use rkyv::api::low::{LowDeserializer, LowSerializer, LowValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::{ArenaHandle, SubAllocator};
use rkyv::ser::{Positional, Serializer, Writer};
use std::mem::MaybeUninit;

/// Appends to a buffer; positions count from the start of the body.
pub struct BodyWriter<'a> {
    out: &'a mut BytesMut,
    start: usize,
}

impl Positional for BodyWriter<'_> {
    fn pos(&self) -> usize {
        self.out.len() - self.start
    }
}

impl<E> Writer<E> for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

/// A body without nested lists, which is written without an allocation.
pub trait Flat:
    for<'w, 's> rkyv::Serialize<LowSerializer<BodyWriter<'w>, SubAllocator<'s>, Failure>>
{
}
impl<T> Flat for T where
    T: for<'w, 's> rkyv::Serialize<LowSerializer<BodyWriter<'w>, SubAllocator<'s>, Failure>>
{
}

/// Any body; nested lists use scratch space from a reused arena.
pub trait Nested:
    for<'w, 's> rkyv::Serialize<LowSerializer<BodyWriter<'w>, ArenaHandle<'s>, Failure>>
{
}
impl<T> Nested for T where
    T: for<'w, 's> rkyv::Serialize<LowSerializer<BodyWriter<'w>, ArenaHandle<'s>, Failure>>
{
}

/// Appends `body` to `out`.
pub(crate) fn write_flat(out: &mut BytesMut, body: &impl Flat) {
    let start = out.len();
    let mut scratch: [MaybeUninit<u8>; 0] = [];
    let mut serializer = Serializer::new(
        BodyWriter { out, start },
        SubAllocator::new(&mut scratch),
        (),
    );
    let written = rkyv::api::serialize_using::<_, Failure>(body, &mut serializer);
    assert!(
        written.is_ok(),
        "a flat body needs no scratch space and its writer cannot fail"
    );
}

/// Appends `body` to `out`.
pub(crate) fn write_nested(out: &mut BytesMut, body: &impl Nested) {
    let start = out.len();
    let written = rkyv::util::with_arena(|arena| {
        let mut serializer = Serializer::new(BodyWriter { out, start }, arena.acquire(), ());
        rkyv::api::serialize_using::<_, Failure>(body, &mut serializer)
    });
    assert!(
        written.is_ok(),
        "neither the arena nor the writer of a body can fail"
    );
}

/// Validates `bytes` as a `T` and returns it in place.
pub(crate) fn access<'a, T>(bytes: &'a [u8], what: &'static str) -> Result<&'a T, DecodeError>
where
    T: Portable + for<'c> CheckBytes<LowValidator<'c, Failure>>,
{
    rkyv::api::low::access::<T, Failure>(bytes).map_err(|_| DecodeError::Malformed { what })
}

/// Converts a validated body to an owned `T`.
pub(crate) fn deserialize<T>(
    archived: &impl rkyv::Deserialize<T, LowDeserializer<Failure>>,
    what: &'static str,
) -> Result<T, DecodeError> {
    rkyv::api::low::deserialize::<T, Failure>(archived).map_err(|_| DecodeError::Malformed { what })
}
