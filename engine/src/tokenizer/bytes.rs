//! Tokens that stand for single bytes, such as `<0xE2>`.

use super::text_table::TextTable;

/// The token of each byte.
pub(super) struct ByteTokens([Option<u32>; 256]);

impl ByteTokens {
    /// Those that a vocabulary has.
    pub(super) fn new(tokens: &TextTable) -> Self {
        let mut bytes = [None; 256];
        for (byte, id) in (0..=255u8).zip(&mut bytes) {
            *id = tokens.get(format!("<0x{byte:02X}>").as_bytes());
        }
        Self(bytes)
    }

    pub(super) fn get(&self, byte: u8) -> Option<u32> {
        self.0[usize::from(byte)]
    }
}

/// The byte that a byte token stands for.
pub(super) fn hex_byte(text: &str) -> Option<u8> {
    u8::from_str_radix(text.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}
