//! Reading the fields of messages that are plain little-endian bytes.

use crate::error::DecodeError;
use bytes::{Buf, Bytes};

/// Reads the fields of a record, remembering whether there was too little.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(rest: &'a [u8], what: &'static str) -> Self {
        Self { rest, what }
    }

    pub(crate) fn malformed(&self) -> DecodeError {
        DecodeError::Malformed { what: self.what }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.rest.try_get_u8().map_err(|_| self.malformed())
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.rest.try_get_u16_le().map_err(|_| self.malformed())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.rest.try_get_u32_le().map_err(|_| self.malformed())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.rest.try_get_u64_le().map_err(|_| self.malformed())
    }

    pub(crate) fn u128(&mut self) -> Result<u128, DecodeError> {
        self.rest.try_get_u128_le().map_err(|_| self.malformed())
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    pub(crate) fn copied(&mut self, len: u32) -> Result<Bytes, DecodeError> {
        let split = self.rest.split_at_checked(len as usize);
        let (bytes, rest) = split.ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(Bytes::copy_from_slice(bytes))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }
}
