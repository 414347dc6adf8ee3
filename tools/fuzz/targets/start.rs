//! A start on a folder of which one segment was taken apart and put together: recovery, and the
//! first operations of the spool that it gives.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pelton::log::SegmentFile;
use pelton_fuzz::good::{self, good};
use pelton_fuzz::spools::SHARD;
use pelton_fuzz::{Input, checks, write_seeds};

fuzz_target!(init: write_seeds(&good::seeds()), |data: &[u8]| {
    let good = good();
    let mut input = Input::new(data);
    let (number, parts) = &good.segments[input.index(good.segments.len())];
    let mut parts = parts.clone();
    parts.change(&mut input);
    let mut bytes = parts.build(&mut input);
    parts.damage(&mut input, &mut bytes);
    let mut disk = good.disk.clone();
    disk.files.insert(SegmentFile::live(SHARD, *number), bytes);
    checks::start(disk);
});
