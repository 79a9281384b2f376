use fastrand::Rng;

use super::*;

/// A dense model whose input takes 10 bytes, each mixer 3, each network 5, and the output 7.
fn dense(n_layer: usize) -> Needs {
    let needs = |part: Part| {
        let bytes = match part {
            Part::Input => 10,
            Part::Mixer(_) => 3,
            Part::Mlp(_) => 5,
            Part::Output => 7,
        };
        PartNeeds { bytes, bound_to: None, is_mixture: false }
    };
    Needs { parts: Part::all(n_layer).map(needs).collect(), shared: 0 }
}

/// The same with networks that are mixtures and take 50 bytes, but for the first, as some models have it.
fn mixture(n_layer: usize) -> Needs {
    let mut needs = dense(n_layer);
    for i in 1..n_layer {
        needs.parts[2 * i + 2] = PartNeeds { bytes: 50, bound_to: None, is_mixture: true };
    }
    needs
}

/// A GPU that takes 100 bytes for itself and has `free` beside them.
fn gpu(free: usize) -> GpuRoom {
    GpuRoom { free: 100 + free, fixed: 100, lacks: Vec::new() }
}

/// Where each part lies: C is the CPU.
fn drawn(assignment: &Assignment) -> String {
    let draw = |location| match location {
        Location::Cpu => 'C',
        Location::Gpu(i) => char::from(b'0' + i as u8),
    };
    assignment.parts().map(|(_, location)| draw(location)).collect()
}

fn auto(needs: &Needs, gpus: &[GpuRoom]) -> String {
    drawn(&needs.assign(gpus, GpuLayers::Auto).expect("auto finds something"))
}

#[test]
fn what_fits_goes_to_gpus() {
    // input, three layers of two parts, output: 10 + 3 * 8 + 7
    let needs = dense(3);
    assert_eq!(needs.bytes(), 41);
    let cases: &[(&[usize], &str)] = &[
        (&[41], "00000000"),
        (&[41, 1000], "00000000"),
        // on one of them rather than on both
        (&[40, 41], "11111111"),
        (&[40, 7], "00000001"),
        (&[18, 23], "00011111"),
        (&[17, 16, 15], "01111222"),
        // the input first, whose table is no loss on the CPU
        (&[40], "C0000000"),
        (&[31], "C0000000"),
        (&[30], "CCC00000"),
        (&[23], "CCC00000"),
        (&[16, 8], "CCC00001"),
        (&[15], "CCCCC000"),
        // the output alone is not worth it
        (&[14], "CCCCCCCC"),
        (&[14, 15], "CCC00111"),
        (&[], "CCCCCCCC"),
    ];
    for (free, want) in cases {
        let gpus: Vec<GpuRoom> = free.iter().map(|free| gpu(*free)).collect();
        assert_eq!(auto(&needs, &gpus), *want, "{free:?}");
    }
}

#[test]
fn experts_leave_first() {
    let needs = mixture(4);
    let all = 10 + 4 * 3 + 5 + 3 * 50 + 7;
    for (free, want) in [
        (all, "0000000000"),
        (all - 1, "C000000000"),
        (all - 11, "C000C00000"),
        (all - 10 - 50, "C000C00000"),
        (all - 10 - 51, "C000C0C000"),
        (all - 10 - 150, "C000C0C0C0"),
        // then whole layers
        (all - 10 - 151, "CCC0C0C0C0"),
        (10, "CCCCCCC0C0"),
        (9, "CCCCCCCCCC"),
    ] {
        assert_eq!(auto(&needs, &[gpu(free)]), want, "{free}");
    }
}

#[test]
fn the_last_layers_are_asked_for_by_number() {
    let needs = dense(3);
    let of = |free: usize, layers| needs.assign(&[gpu(free)], layers).map(|assignment| drawn(&assignment));
    for (n, want) in [
        (0, "CCCCCCCC"),
        (1, "CCCCCCC0"),
        (2, "CCCCC000"),
        (3, "CCC00000"),
        (4, "00000000"),
        (99, "00000000"),
    ] {
        assert_eq!(of(1000, GpuLayers::Last(n)).as_deref(), Ok(want), "{n}");
    }
    assert_eq!(of(41, GpuLayers::All).as_deref(), Ok("00000000"));
    assert_eq!(of(35, GpuLayers::All), Err(Refusal::Memory(6)));
    assert_eq!(of(35, GpuLayers::Last(4)), Err(Refusal::Memory(6)));
    assert_eq!(of(10, GpuLayers::Last(3)), Err(Refusal::Memory(13)));
    // not even what it takes for itself
    let tiny = GpuRoom { free: 60, fixed: 100, lacks: Vec::new() };
    assert_eq!(needs.assign(&[tiny], GpuLayers::All), Err(Refusal::Memory(81)));
}

#[test]
fn layers_without_kernels_stay_on_the_cpu() {
    let needs = dense(3);
    let lacking = |parts: &[Part]| [GpuRoom { lacks: parts.to_vec(), ..gpu(1000) }];
    let one = lacking(&[Part::Mlp(1)]);
    assert_eq!(auto(&needs, &one), "000CC000");
    let small = [GpuRoom { lacks: vec![Part::Mlp(1)], ..gpu(25) }];
    assert_eq!(auto(&needs, &small), "C00CC000");
    let last = needs.assign(&one, GpuLayers::Last(3)).map(|assignment| drawn(&assignment));
    assert_eq!(last.as_deref(), Ok("CCCCC000"));
    assert_eq!(needs.assign(&one, GpuLayers::All), Err(Refusal::Kernels(Part::Mixer(1))));
    assert_eq!(auto(&needs, &lacking(&[Part::Mixer(0), Part::Mlp(1), Part::Mixer(2)])), "CCCCCCCC");
    // another GPU has them
    assert_eq!(auto(&needs, &[one[0].clone(), gpu(24)]), "00011111");
}

#[test]
fn what_is_bound_together_lies_together() {
    let mut parallel = mixture(3);
    parallel.parts[4].bound_to = Some(Part::Mixer(1));
    // the experts of the layer cannot leave it, and those of the next one are enough
    assert_eq!(auto(&parallel, &[gpu(80)]), "C00000C0");
    assert_eq!(auto(&parallel, &[gpu(60)]), "CCCCC0C0");
    let mut inputs = dense(3);
    (1..inputs.parts.len()).for_each(|i| inputs.parts[i].bound_to = Some(Part::Input));
    assert_eq!([auto(&inputs, &[gpu(41)]), auto(&inputs, &[gpu(40)])], ["00000000", "CCCCCCCC"]);
    assert_eq!(auto(&inputs, &[gpu(40), gpu(40)]), "CCCCCCCC");
    let mut shared_keys = dense(3);
    shared_keys.parts[5].bound_to = Some(Part::Mixer(1));
    assert_eq!(auto(&shared_keys, &[gpu(26), gpu(30)]), "00011111");
    assert_eq!(auto(&shared_keys, &[gpu(22)]), "CCCCCCCC");
}

#[test]
fn a_table_that_serves_twice_is_counted_once() {
    let needs = Needs { shared: 6, ..dense(3) };
    assert_eq!(needs.bytes(), 35);
    assert_eq!(auto(&needs, &[gpu(35)]), "00000000");
    assert_eq!(needs.assign(&[gpu(34)], GpuLayers::All), Err(Refusal::Memory(1)));
    // where the input is elsewhere, the output takes all
    assert_eq!(auto(&needs, &[gpu(31)]), "C0000000");
    assert_eq!(auto(&needs, &[gpu(30)]), "CCC00000");
    assert_eq!(auto(&needs, &[gpu(34), gpu(6)]), "C0000000");
}

fn random(rng: &mut Rng) -> (Needs, Vec<GpuRoom>) {
    let n_layer = rng.usize(1..5);
    let part = |part: Part| {
        let (rng, is_mlp) = (&mut *rng, matches!(part, Part::Mlp(_)));
        let bound_to = match part {
            Part::Mlp(i) if rng.u8(..8) == 0 => Some(Part::Mixer(i)),
            Part::Mixer(i) if i > 0 && rng.u8(..10) == 0 => Some(Part::Mixer(rng.usize(..i))),
            _ => None,
        };
        PartNeeds { bytes: rng.usize(..40), bound_to, is_mixture: is_mlp && rng.bool() }
    };
    let parts: Vec<PartNeeds> = Part::all(n_layer).map(part).collect();
    let shared = if rng.bool() { parts[0].bytes.min(parts[parts.len() - 1].bytes) } else { 0 };
    let gpus = (0..rng.usize(1..4)).map(|_| {
        let lacks = Part::all(n_layer).filter(|part| part.layer().is_some() && rng.u8(..20) == 0).collect();
        GpuRoom { free: rng.usize(..250), fixed: rng.usize(..50), lacks }
    });
    let gpus = gpus.collect();
    (Needs { parts, shared }, gpus)
}

/// Whether an assignment is one that devices can run: what follows on a GPU comes from the one before or the CPU, nothing is
/// torn, kernels are there, and so is the memory.
fn is_sound(needs: &Needs, gpus: &[GpuRoom], on: &[Location]) -> bool {
    let parts: Vec<Part> = needs.ordered().collect();
    let numbers: Vec<usize> =
        on.iter().filter_map(|on| if let Location::Gpu(i) = on { Some(*i) } else { None }).collect();
    let bonds_hold = needs.bonds().all(|(i, j)| on[i] == on[j]);
    let fits = gpus.iter().enumerate().all(|(g, gpu)| {
        let here: Vec<usize> = (0..on.len()).filter(|i| on[*i] == Location::Gpu(g)).collect();
        let sum: usize = here.iter().map(|i| needs.parts[*i].bytes).sum();
        let twice = here.contains(&0) && here.contains(&(on.len() - 1));
        let takes = gpu.fixed + sum - if twice { needs.shared } else { 0 };
        here.is_empty() || (takes <= gpu.free && here.iter().all(|i| !gpu.lacks.contains(&parts[*i])))
    });
    numbers.is_sorted() && bonds_hold && fits
}

fn runnable_of(needs: &Needs, gpus: &[GpuRoom]) -> Vec<bool> {
    needs.without_torn(needs.with_kernels(gpus))
}

/// Whether the chosen parts can be on the GPUs in any way, layers whole; tried all.
fn can_be(needs: &Needs, gpus: &[GpuRoom], chosen: &[bool]) -> bool {
    let units = needs.units();
    (0..gpus.len().pow(units.len() as u32)).any(|mut way| {
        let mut on = vec![Location::Cpu; chosen.len()];
        for unit in &units {
            let (gpu, parts) = (way % gpus.len(), unit.clone().filter(|i| chosen[*i]));
            parts.for_each(|i| on[i] = Location::Gpu(gpu));
            way /= gpus.len();
        }
        is_sound(needs, gpus, &on)
    })
}

/// The memory is never exceeded, and no more is on the CPU than has to be.
#[test]
fn random_models_are_divided_as_well_as_can_be() {
    let mut rng = Rng::with_seed(7);
    let mut kinds = [0; 4];
    for case in 0..3000 {
        let (needs, gpus) = random(&mut rng);
        let found = needs.assign(&gpus, GpuLayers::Auto).expect("auto finds something");
        let on: Vec<Location> = found.parts().map(|(_, on)| on).collect();
        let why = || format!("case {case}: {} of {needs:?} on {gpus:?}", drawn(&found));
        assert!(is_sound(&needs, &gpus, &on), "{}", why());
        let chosen: Vec<bool> = on.iter().map(|on| *on != Location::Cpu).collect();
        let whole = can_be(&needs, &gpus, &vec![true; on.len()]);
        assert_eq!(whole, chosen.iter().all(|chosen| *chosen), "{}", why());
        if whole {
            kinds[0] += 1;
            let alone = |g: usize| can_be(&needs, &gpus[g..=g], &chosen);
            let one = (0..gpus.len()).find(|g| gpus[*g].lacks.is_empty() && alone(*g));
            assert!(one.is_none_or(|g| on.iter().all(|on| *on == Location::Gpu(g))), "{}", why());
            assert_eq!(needs.assign(&gpus, GpuLayers::All), Ok(found.clone()), "{}", why());
            continue;
        }
        if can_be(&needs, &gpus, &runnable_of(&needs, &gpus)) {
            assert!(chosen == runnable_of(&needs, &gpus) || !chosen.contains(&true), "{}", why());
            continue;
        }
        // what would be with one more expert, or one more layer, on the GPUs
        let runnable = runnable_of(&needs, &gpus);
        let is_free = |i: usize| needs.parts[i].is_mixture && needs.parts[i].bound_to.is_none();
        let first = (1..on.len() - 1).find(|i| i % 2 == 1 && chosen[*i]);
        let Some(first) = first else {
            kinds[1] += 1;
            continue;
        };
        let mixers_left = (1..first).any(|i| i % 2 == 1 && runnable[i]);
        let mut more = runnable.clone();
        more[0] = false;
        if mixers_left {
            // the layers before it, experts aside, and not the first of them
            kinds[2] += 1;
            let next = (1..first).rev().find(|i| i % 2 == 1 && runnable[*i]).expect("one is left");
            (1..on.len() - 1).for_each(|i| more[i] &= (i >= next) && !is_free(i));
        } else {
            kinds[3] += 1;
            let Some(last) = (0..on.len()).rev().find(|i| is_free(*i) && runnable[*i] && !chosen[*i]) else {
                continue;
            };
            (0..last).for_each(|i| more[i] &= !is_free(i));
        }
        let more = needs.without_torn(more);
        assert!(more == chosen || !can_be(&needs, &gpus, &more), "{}", why());
    }
    assert!(kinds.iter().all(|n| *n > 50), "{kinds:?}");
}
