//! Optional fields: values by tag behind a message's body. A receiver skips the tags that it does not know.

use crate::{Error, frame::HEADER, limits::MAX_FRAME};
use bincode::{Decode, Encode, config};

/// The one configuration of bincode in the project: its standard one aborts the process on a hostile
/// length, this one answers with an error once a decode wants more than a frame can hold.
pub(crate) const CONFIG: config::Configuration<
    config::LittleEndian,
    config::Varint,
    config::Limit<{ MAX_FRAME - HEADER }>,
> = config::standard().with_limit::<{ MAX_FRAME - HEADER }>();

/// Optional fields of one message, in the order of their tags.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Fields(Vec<(u16, Vec<u8>)>);

impl Fields {
    /// Adds a field.
    ///
    /// # Errors
    /// A value that does not fit into a frame.
    pub fn with<T: Encode>(mut self, tag: u16, value: &T) -> Result<Self, Error> {
        let bytes = bincode::encode_to_vec(value, CONFIG)
            .map_err(|error| Error::Body { name: "optional field", what: error.to_string() })?;
        self.0.push((tag, bytes));
        Ok(self)
    }

    /// Adds a field that says that something is so; what is not so needs none.
    ///
    /// # Errors
    /// None that can be.
    pub fn flag(self, tag: u16, so: bool) -> Result<Self, Error> {
        if so { self.with(tag, &so) } else { Ok(self) }
    }

    /// The value of a field, or `default` if the sender did not know of it.
    ///
    /// # Errors
    /// The field is there and malformed.
    pub fn value<T: Decode<()>>(&self, tag: u16, default: T) -> Result<T, Error> {
        Ok(self.optional(tag)?.unwrap_or(default))
    }

    /// The value of a field, if it is there.
    ///
    /// # Errors
    /// The field is there and malformed.
    pub fn optional<T: Decode<()>>(&self, tag: u16) -> Result<Option<T>, Error> {
        let Some((_, bytes)) = self.0.iter().find(|(found, _)| *found == tag) else { return Ok(None) };
        decode("optional field", bytes).map(|(value, _)| Some(value))
    }
}

/// Encodes a body followed by its optional fields.
pub(crate) fn encode<T: Encode>(name: &'static str, body: &T, fields: &Fields) -> Result<Vec<u8>, Error> {
    bincode::encode_to_vec((body, fields), CONFIG)
        .map_err(|error| Error::Body { name, what: error.to_string() })
}

/// Decodes a value from the front of `bytes`; returns the rest as well.
pub(crate) fn decode<'a, T: Decode<()>>(name: &'static str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), Error> {
    let (value, used) = bincode::decode_from_slice(bytes, CONFIG)
        .map_err(|error| Error::Body { name, what: error.to_string() })?;
    Ok((value, bytes.get(used..).unwrap_or_default()))
}

/// Decodes a body and its optional fields. Both may be followed by what a later version adds.
pub(crate) fn decode_body<T: Decode<()>>(name: &'static str, bytes: &[u8]) -> Result<(T, Fields), Error> {
    let (body, rest) = decode(name, bytes)?;
    let (fields, _) = decode(name, rest)?;
    Ok((body, fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_skipped_and_absent_ones_default() {
        let fields = Fields::default().with(9, &"new").unwrap().with(1, &7u32).unwrap();
        assert_eq!(fields.value(1, 0u32).unwrap(), 7);
        assert_eq!(fields.value(2, 5u32).unwrap(), 5);
    }

    #[test]
    fn a_malformed_field_is_an_error() {
        let fields = Fields(vec![(1, vec![])]);
        assert!(matches!(fields.value(1, 0u32), Err(Error::Body { .. })));
    }

    #[test]
    fn a_hostile_length_is_an_error_and_no_allocation() {
        // 0xfd announces a 64-bit length.
        let bytes = [0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(decode::<Vec<u8>>("test", &bytes), Err(Error::Body { .. })));
        assert!(matches!(decode::<String>("test", &bytes), Err(Error::Body { .. })));
        assert!(matches!(decode::<Fields>("test", &bytes), Err(Error::Body { .. })));
    }
}
