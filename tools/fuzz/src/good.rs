//! Good segments to begin with, made once.

use std::sync::OnceLock;

use pelton::log::{SegmentFile, SegmentKind, format};

use crate::segments::Parts;
use crate::spools::{self, Disk};

/// Good segments: the first, one in the middle, the last, which is open.
pub struct Good {
    pub disk: Disk,
    pub segments: Vec<(u64, Parts)>,
}

pub fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let disk = spools::written();
        let written = |it: &(&SegmentFile, &Vec<u8>)| {
            let records = &it.1[format::HEADER_BYTES..];
            it.0.kind == SegmentKind::Live && records.iter().any(|byte| *byte != 0)
        };
        let files: Vec<_> = disk.files.iter().filter(written).collect();
        let chosen = [files[0], files[files.len() / 2], files[files.len() - 1]];
        let segments = chosen.map(|(file, bytes)| (file.number, Parts::of(file.number, bytes)));
        let segments = segments.to_vec();
        Good { disk, segments }
    })
}

/// Inputs that each make one change to one of them.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for first in 1..=3 {
        seeds.push(vec![first, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for op in 1..12 {
            seeds.push(vec![
                first, 0, 0, 0, 0, 0, op, 3, 0, 8, 0, 4, 2, 65, 66, 0, 0, 0, 0,
            ]);
        }
    }
    seeds
}
