//! The types that can be values.

use bytes::{Bytes, BytesMut};
use std::borrow::Cow;

/// A type that can be a value. Owned bytes and text (`Bytes`, `Vec<u8>`, `String`, boxes) are sent
/// without a copy. Arrays and borrowed data (`&str`, `&[u8]`, `&String`, ...) are copied, except for
/// `&Bytes`, which shares its bytes.
pub trait IntoValue {
    /// The value's bytes.
    fn into_value(self) -> Bytes;
}

/// A type that can be a value by reference.
pub trait AsValue {
    /// The value's bytes.
    fn as_value(&self) -> Bytes;
}

macro_rules! owned {
    ($($type:ty),*) => {$(
        impl IntoValue for $type {
            fn into_value(self) -> Bytes {
                self.into()
            }
        }
    )*};
}

owned!(Bytes, BytesMut, Vec<u8>, String, Box<[u8]>);

impl IntoValue for Box<str> {
    fn into_value(self) -> Bytes {
        self.into_string().into()
    }
}

impl<const LEN: usize> IntoValue for [u8; LEN] {
    fn into_value(self) -> Bytes {
        Bytes::copy_from_slice(&self)
    }
}

impl IntoValue for Cow<'_, [u8]> {
    fn into_value(self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Owned(bytes) => bytes.into(),
        }
    }
}

impl IntoValue for Cow<'_, str> {
    fn into_value(self) -> Bytes {
        match self {
            Self::Borrowed(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Owned(text) => text.into(),
        }
    }
}

impl<T: AsValue + ?Sized> IntoValue for &T {
    fn into_value(self) -> Bytes {
        self.as_value()
    }
}

impl AsValue for Bytes {
    fn as_value(&self) -> Bytes {
        self.clone()
    }
}

impl<T: AsValue + ?Sized> AsValue for &T {
    fn as_value(&self) -> Bytes {
        (**self).as_value()
    }
}

macro_rules! copied {
    ($($type:ty),*) => {$(
        impl AsValue for $type {
            fn as_value(&self) -> Bytes {
                Bytes::copy_from_slice(self.as_ref())
            }
        }
    )*};
}

copied!(
    str,
    [u8],
    String,
    Vec<u8>,
    BytesMut,
    Box<[u8]>,
    Cow<'_, [u8]>
);

impl AsValue for Box<str> {
    fn as_value(&self) -> Bytes {
        (**self).as_value()
    }
}

impl AsValue for Cow<'_, str> {
    fn as_value(&self) -> Bytes {
        (**self).as_value()
    }
}

impl<const LEN: usize> AsValue for [u8; LEN] {
    fn as_value(&self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: impl IntoValue) {
        assert_eq!(value.into_value(), "text");
    }

    #[test]
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "references are what is tested"
    )]
    fn every_form_of_bytes_and_text_is_a_value() {
        let (text, bytes) = (String::from("text"), b"text".to_vec());
        let shared = Bytes::from(bytes.clone());
        check("text");
        check(&"text");
        check(b"text");
        check(*b"text");
        check(&b"text"[..]);
        check(&text);
        check(text.as_str());
        check(&bytes);
        check(&shared);
        check(Cow::Borrowed("text"));
        check(Cow::Borrowed(&b"text"[..]));
        check(Cow::<str>::Owned(text.clone()));
        check(&Cow::Borrowed("text"));
        check(&Cow::<[u8]>::Owned(bytes.clone()));
        check(text.clone().into_boxed_str());
        check(&text.clone().into_boxed_str());
        check(bytes.clone().into_boxed_slice());
        check(BytesMut::from("text"));
        check(text);
        // Neither is copied.
        let place = shared.as_ptr();
        assert_eq!((&shared).into_value().as_ptr(), place);
        let place = bytes.as_ptr();
        assert_eq!(bytes.into_value().as_ptr(), place);
    }
}
