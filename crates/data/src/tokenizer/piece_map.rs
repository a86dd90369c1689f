//! A map from pieces of text, most of which are a few bytes long.

use super::merges::FastMap;

/// A map whose keys are byte strings. Those of up to 15 bytes are one word each, so that finding one compares no memory
/// elsewhere: of the pieces of English prose more than 99 in 100.
#[derive(Clone, Debug, PartialEq)]
pub struct PieceMap<V> {
    short: FastMap<u128, V>,
    long: FastMap<Box<[u8]>, V>,
}

impl<V> Default for PieceMap<V> {
    fn default() -> Self {
        PieceMap { short: FastMap::default(), long: FastMap::default() }
    }
}

impl<V> PieceMap<V> {
    /// How many pieces there are.
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a piece has.
    pub fn get(&self, piece: &[u8]) -> Option<&V> {
        match pack(piece) {
            Some(packed) => self.short.get(&packed),
            None => self.long.get(piece),
        }
    }

    /// What a piece has, put there first if it has nothing.
    pub fn get_or_insert(&mut self, piece: &[u8], value: V) -> &mut V {
        match pack(piece) {
            Some(packed) => self.short.entry(packed).or_insert(value),
            // Twice looked up, rather than a key allocated for every look.
            None if !self.long.contains_key(piece) => self.long.entry(piece.into()).or_insert(value),
            None => self.long.get_mut(piece).expect("it has just been found"),
        }
    }

    /// All pieces and what they have, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Vec<u8>, &V)> {
        let short = self.short.iter().map(|(packed, value)| {
            let bytes = packed.to_le_bytes();
            (bytes[..bytes[15] as usize].to_vec(), value)
        });
        short.chain(self.long.iter().map(|(bytes, value)| (bytes.to_vec(), value)))
    }
}

impl<K: AsRef<[u8]>, V> FromIterator<(K, V)> for PieceMap<V> {
    /// Of several values for one piece the first counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pieces: I) -> Self {
        let mut map = PieceMap::default();
        for (piece, value) in pieces {
            map.get_or_insert(piece.as_ref(), value);
        }
        map
    }
}

/// Up to 15 bytes, the first lowest, and in the highest byte their number.
fn pack(bytes: &[u8]) -> Option<u128> {
    let n = bytes.len();
    // In one or two reads of fixed size, which may overlap; a copy of `n` bytes would be a call.
    let packed = match n {
        0..4 => bytes.iter().rev().fold(0, |packed, byte| packed << 8 | u128::from(*byte)),
        4..8 => {
            let read = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
            u128::from(read(0)) | u128::from(u64::from(read(n - 4)) >> (8 * (8 - n))) << 32
        }
        8..16 => {
            let read = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
            u128::from(read(0)) | (u128::from(read(n - 8)) >> (8 * (16 - n))) << 64
        }
        _ => return None,
    };
    Some(packed | (n as u128) << 120)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn it_is_a_map(pieces in proptest::collection::vec((proptest::collection::vec(0..3u8, 0..20), 0..9u64), 0..60)) {
            let mut expected = BTreeMap::new();
            let mut map = PieceMap::default();
            for (piece, n) in &pieces {
                *expected.entry(piece.clone()).or_insert(0) += n;
                *map.get_or_insert(piece, 0) += n;
            }
            prop_assert_eq!(map.len(), expected.len());
            prop_assert!(expected.iter().all(|(piece, n)| map.get(piece) == Some(n)));
            let all: BTreeMap<_, _> = map.iter().map(|(piece, n)| (piece, *n)).collect();
            prop_assert_eq!(all, expected);
        }

        #[test]
        fn short_pieces_are_packed_as_they_stand(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            let mut expected = [0; 16];
            expected[..bytes.len()].copy_from_slice(&bytes);
            expected[15] = bytes.len() as u8;
            prop_assert_eq!(pack(&bytes), Some(u128::from_le_bytes(expected)));
        }
    }
}
