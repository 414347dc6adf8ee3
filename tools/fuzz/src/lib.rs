//! What the fuzz targets share: segments to begin with, the changes that an input asks for, and
//! what must hold of every answer. Nothing here is part of Pelton.

pub mod checks;
pub mod good;
pub mod segments;
pub mod spools;

use std::path::Path;

/// Puts seeds where the fuzzer looks for its corpus, if it was told where that is.
pub fn write_seeds(seeds: &[Vec<u8>]) {
    let Some(folder) = std::env::var_os("PELTON_FUZZ_SEEDS") else {
        return;
    };
    for (number, seed) in seeds.iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{number:02}"));
        std::fs::write(&path, seed).expect("the folder of the corpus can be written");
    }
}

/// The bytes of an input, taken from the front. At its end everything is zero.
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(rest: &'a [u8]) -> Input<'a> {
        Input { rest }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub fn number(&mut self, bytes: usize) -> u64 {
        let taken = self.take(bytes);
        taken
            .iter()
            .rev()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// An index below `bound`; zero if there is none.
    pub fn index(&mut self, bound: usize) -> usize {
        self.number(2) as usize % bound.max(1)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }
}
