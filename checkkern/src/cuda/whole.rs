//! A device as a whole: what is uploaded comes back, graphs do what launches do, and peaks are of the work they claim.

use braise_kernels::cuda::ops::{
    ActivateRows, AddValues, Argmax, CopyWords, MultiplyTiles, Norm, NormKind, NormRows,
};
use braise_kernels::cuda::{Address, Error, Launch, Piece, Properties};
use braise_kernels::ops::Activation;
use fastrand::Rng;

use super::super::report::Cases;
use super::Bench;
use super::rows::normals;

/// Bytes of transfers: less than one buffer for them, whole ones, several with a rest.
const TRANSFERS: [usize; 6] = [1, 4095, 4 << 20, (4 << 20) + 1, (8 << 20) - 1, (33 << 20) + 7];

/// Memory that is written and read back, as a whole and from the middle.
pub(super) fn transfers(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(41);
    for n in TRANSFERS {
        let mut bytes = vec![0; n];
        random.fill(&mut bytes);
        let address = bench.put(&bytes)?;
        let got: Vec<u8> = bench.get(address, n)?;
        let wrong = got.iter().zip(&bytes).filter(|(got, want)| got != want).count();
        cases.expect(wrong == 0, || format!("{wrong} of {n} bytes came back wrong"));
        let got: Vec<u8> = bench.get(address.offset(n as u64 / 2), n - n / 2)?;
        cases.expect(got == bytes[n / 2..], || format!("bytes from {} of {n} came back wrong", n / 2));
        bench.let_go()?;
    }
    Ok(())
}

/// Copies that run beside each other, out of buffers of several pieces, and what they leave alone.
pub(super) fn copies_beside(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    const BYTES: usize = (1 << 20) + 3;
    let mut random = Rng::with_seed(47);
    let mut want = vec![0; 5 * BYTES];
    random.fill(&mut want);
    let address = bench.put(&want)?;
    let mut running = Vec::new();
    for copy in 0..4 {
        let mut buffer = bench.device.host_buffer(BYTES)?;
        random.fill(&mut buffer);
        // neighbours in the buffer go to places far apart
        let pieces = [(0, 1, BYTES - 1), (1, BYTES / 2, 5), (1 + BYTES / 2, 700, BYTES - 800)];
        let pieces = pieces.map(|(from, bytes, to)| {
            let at = (4 - copy) * BYTES + to;
            want[at..at + bytes].copy_from_slice(&buffer[from..from + bytes]);
            Piece { from, bytes, to: address.offset(at as u64) }
        });
        running.push(bench.device.send(buffer, &pieces)?);
    }
    for transfer in running {
        let buffer = bench.device.reclaim(transfer)?;
        cases.expect(buffer.len() == BYTES, || format!("a buffer of {} bytes came back", buffer.len()));
    }
    let got: Vec<u8> = bench.get(address, want.len())?;
    let wrong = got.iter().zip(&want).filter(|(got, want)| got != want).count();
    cases.expect(wrong == 0, || format!("{wrong} of {} bytes came back wrong", want.len()));
    let outside = Piece { from: 10, bytes: 7, to: address };
    let buffer = bench.device.host_buffer(16)?;
    let refused = bench.device.send(buffer, &[outside]).and_then(|copy| bench.device.reclaim(copy));
    cases.expect(refused.is_err(), || "a piece beyond its buffer was copied".to_owned());
    Ok(())
}

/// Copies on the device, of all numbers of words around those that a grid takes at a time.
pub(super) fn copies(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(42);
    for (words, blocks) in [(1, 1), (255, 1), (1024, 1), (1025, 1), (2 * 2048 + 3, 2), (1000, 7)] {
        let mut bytes = vec![0; 16 * words];
        random.fill(&mut bytes);
        let (from, to) = (bench.put(&bytes)?, bench.room(4 * words)?);
        bench.run(CopyWords { from, bytes: bytes.len() as u64, to, blocks }.launch())?;
        let what = format!("{words} words by {blocks} blocks");
        let got = bench.results(to, 4 * words, &what, cases)?;
        cases.expect(bytemuck::cast_slice::<f32, u8>(&got) == bytes, || format!("{what}: other bytes"));
    }
    Ok(())
}

/// Products of tiles of ones: each sum is as large as the work that was asked for.
pub(super) fn tiles(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let of_warpgroups = bench.device.properties().compute == Properties::WARPGROUPS;
    let kinds = if of_warpgroups { &[false, true][..] } else { &[false] };
    for (warpgroups, (blocks, rounds)) in
        kinds.iter().flat_map(|kind| [(1, 0), (1, 1), (3, 7)].map(|n| (*kind, n)))
    {
        let n = (blocks * MultiplyTiles::SUMS) as usize;
        let sums = bench.room(n)?;
        let tiles = MultiplyTiles { blocks, rounds, sums, warpgroups };
        bench.run(tiles.launch())?;
        let what = format!("{rounds} rounds in {blocks} blocks, of warpgroups: {warpgroups}");
        let want = (rounds * tiles.sum()) as f32;
        let got = bench.results(sums, n, &what, cases)?;
        cases.expect(got.iter().all(|sum| *sum == want), || format!("{what}: {got:?} instead of {want}"));
    }
    Ok(())
}

/// Launches that depend on each other, in one graph: with other numbers in the same memory each run gives what the same
/// launches give one by one.
pub(super) fn graphs(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(43);
    let (rows, n, none) = (3, 256, Address::NONE);
    let weight = bench.put(&normals(n, &mut random))?;
    let x = bench.zeros(4 * rows * n)?;
    let y = bench.zeros(4 * rows * n)?;
    let best = bench.zeros(8 * rows * Argmax::BLOCKS as usize)?;
    let counters = bench.zeros(4 * rows)?;
    let tokens = bench.zeros(4 * rows)?;
    let norm = Norm { kind: NormKind::Rms, eps: 1e-5, weight, bias: none };
    let (rows32, n32, all) = (rows as u32, n as u32, (rows * n) as u64);
    let activate = ActivateRows {
        gate: y,
        gate_stride: n32,
        up: none,
        up_stride: 0,
        rows: rows32,
        n: n32,
        activation: Activation::Silu,
        divisors: none,
        y,
        q8: none,
        bf16: none,
    };
    let chain: Vec<Launch> = [
        NormRows { x, stride: n32, rows: rows32, n: n32, norm, y, ..NormRows::default() }.launch(),
        activate.launch(),
        AddValues { x: y, factor: 0.5, n: all, y: x }.launch(),
        Argmax { logits: x, n: n32, rows: rows32, best, counters, tokens }.launch(),
    ]
    .into_iter()
    .collect::<Result<_, _>>()?;
    // loads the kernels, which may not be part of a graph
    chain.iter().try_for_each(|launch| bench.device.launch(launch))?;
    bench.device.begin_capture()?;
    let captured = chain.iter().try_for_each(|launch| bench.device.launch(launch));
    let graph = bench.device.end_capture()?;
    captured?;
    for run in 0..3 {
        let values = normals(rows * n, &mut random);
        let mut results = Vec::new();
        for replayed in [false, true] {
            bench.device.upload(x, bytemuck::cast_slice(&values))?;
            match replayed {
                true => bench.device.replay(graph)?,
                false => chain.iter().try_for_each(|launch| bench.device.launch(launch))?,
            }
            let bits: Vec<u32> = bench.get(x, rows * n)?;
            results.push((bits, bench.get::<u32>(tokens, rows)?));
        }
        cases.expect(results[0] == results[1], || format!("run {run}: the graph gave other bits"));
        let before: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
        cases.expect(results[0].0 != before, || format!("run {run}: nothing was computed"));
    }
    bench.device.destroy(graph)?;
    let again = bench.device.replay(graph);
    cases.expect(again.is_err(), || "a graph that was destroyed was run".to_owned());
    Ok(())
}
