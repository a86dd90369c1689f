//! The documents of a file of JSON lines.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::input::Input;
use crate::{Error, Result};

/// A longer line is no document, but a file that is not made of lines; it is not kept, so that memory stays bounded.
const LINE_BYTES: u64 = 256 << 20;

pub(super) struct JsonLines {
    input: Input,
    /// The field with the text.
    field: String,
    line: u64,
    offset: u64,
    /// The longest line that is read.
    line_bytes: u64,
}

impl JsonLines {
    pub(super) fn new(input: Input, field: &str) -> Self {
        JsonLines { input, field: field.to_owned(), line: 0, offset: 0, line_bytes: LINE_BYTES }
    }

    /// [`Input::taken`].
    pub(super) fn taken(&self) -> u64 {
        self.input.taken()
    }

    /// The next line's text; blank lines count as empty documents. After an error about a line, the next one.
    pub(super) fn next_text(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let offset = self.offset;
        let read = self.input.read_line(self.line_bytes, &mut bytes)?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.offset += read as u64;
        if read as u64 == self.line_bytes && bytes.last() != Some(&b'\n') {
            self.pass_line(bytes)?;
            let why = format!("it has more than {} bytes", self.line_bytes);
            return Err(self.broken(offset, why));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| self.line == 1).unwrap_or(&bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Some(String::new()));
        }
        let text = std::str::from_utf8(bytes).map_err(|e| Error::Utf8 {
            path: self.input.path.clone(),
            place: format!("line {}", self.line),
            offset: offset + e.valid_up_to() as u64,
            byte: bytes[e.valid_up_to()],
        })?;
        // Without its newline, after which a cut-off line would seem to go on.
        let mut json = serde_json::Deserializer::from_str(text.trim_end());
        let found = Field(&self.field).deserialize(&mut json).and_then(|text| json.end().map(|()| text));
        // serde_json counts lines within what it was given, which is always one line.
        let why = |e: serde_json::Error| e.to_string().replace(" at line 1 column", " at column");
        found.map(Some).map_err(|e| self.broken(offset, why(e)))
    }

    /// What is left of a line that is too long; `scratch` is of no more use.
    fn pass_line(&mut self, mut scratch: Vec<u8>) -> Result<()> {
        loop {
            scratch.clear();
            let read = self.input.read_line(1 << 20, &mut scratch)?;
            self.offset += read as u64;
            if read == 0 || scratch.last() == Some(&b'\n') {
                return Ok(());
            }
        }
    }

    fn broken(&self, offset: u64, why: String) -> Error {
        let (path, field) = (self.input.path.clone(), self.field.clone());
        Error::JsonLine { path, line: self.line, offset, field, why }
    }
}

/// Takes one string field out of an object.
struct Field<'f>(&'f str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = String;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a JSON object with a string field `{}`", self.0)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<String, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        found.ok_or_else(|| serde::de::Error::custom(format_args!("missing field `{}`", self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_not_kept() {
        let text = format!("{{\"text\": \"{}\"}}\n{{\"text\": \"b\"}}\n", "a".repeat(3 << 20));
        let end = text.len() as u64 - 14;
        let input = Input::of_reader(Box::new(std::io::Cursor::new(text)));
        let mut lines = JsonLines { line_bytes: 100, ..JsonLines::new(input, "text") };
        let error = lines.next_text().expect_err("3 MiB").to_string();
        assert!(error.contains("line 1 (byte offset 0): it has more than 100 bytes"), "{error}");
        assert_eq!((lines.next_text().expect("goes on"), lines.line), (Some("b".into()), 2));
        assert_eq!((lines.offset, lines.next_text().expect("ends")), (end + 14, None));
    }
}
