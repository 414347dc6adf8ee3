//! A segment of the spool, of any bytes at all, or one that was taken apart and put together.
//!
//! First byte: 0 takes what follows as it is; otherwise it says which good segment to begin with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pelton::log::SegmentFile;
use pelton_fuzz::good::{self, good};
use pelton_fuzz::spools::SHARD;
use pelton_fuzz::{Input, checks, segments, write_seeds};

fn seeds() -> Vec<Vec<u8>> {
    let good = good();
    let raw = good.segments.iter().map(|(number, _)| {
        let bytes = &good.disk.files[&SegmentFile::live(SHARD, *number)];
        [&[0, *number as u8, 0, 0, 0, 0], &bytes[..]].concat()
    });
    raw.chain(good::seeds()).collect()
}

fuzz_target!(init: write_seeds(&seeds()), |data: &[u8]| {
    let good = good();
    let mut input = Input::new(data);
    let mode = input.number(1) as usize;
    if mode == 0 {
        let number = input.number(1).max(1);
        let evidence = segments::evidence(number, &mut input);
        return checks::segment(number, input.rest(), evidence);
    }
    let (number, parts) = &good.segments[mode % good.segments.len()];
    let evidence = segments::evidence(*number, &mut input);
    let mut parts = parts.clone();
    parts.change(&mut input);
    let mut bytes = parts.build(&mut input);
    parts.damage(&mut input, &mut bytes);
    checks::segment(*number, &bytes, evidence);
});
