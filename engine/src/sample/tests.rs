use super::*;

const LOGITS: [f32; 8] = [1.0, 3.0, -2.0, 2.5, 0.0, 3.0, -7.0, 1.5];

/// Everything off, temperature 1.
fn plain() -> SamplerOptions {
    SamplerOptions { temperature: 1.0, top_k: 0, top_p: 1.0, seed: Some(42), ..SamplerOptions::default() }
}

/// The steps written out as their definitions: the probability of each token, 0 for those cut off.
fn probabilities(options: &SamplerOptions, logits: &[f32], history: &[u32]) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    let recent: Vec<u32> = history.iter().rev().take(options.repeat_last_n).copied().collect();
    for (id, logit) in logits.iter_mut().enumerate() {
        let count = recent.iter().filter(|&&seen| seen as usize == id).count() as f64;
        if count > 0.0 {
            let repeat = f64::from(options.repeat_penalty);
            *logit = if *logit > 0.0 { *logit / repeat } else { *logit * repeat };
            *logit -= f64::from(options.presence_penalty) + count * f64::from(options.frequency_penalty);
        }
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    if options.top_k > 0 {
        order.truncate(options.top_k);
    }
    let softmax = |order: &[usize], temperature: f64| -> Vec<f64> {
        let weights: Vec<f64> = order.iter().map(|&id| (logits[id] / temperature).exp()).collect();
        weights.iter().map(|weight| weight / weights.iter().sum::<f64>()).collect()
    };
    if options.top_p < 1.0 {
        let p = softmax(&order, 1.0);
        let kept = (1..=order.len()).find(|&n| p[..n].iter().sum::<f64>() >= f64::from(options.top_p));
        order.truncate(kept.unwrap_or(order.len()));
    }
    let p = softmax(&order, 1.0);
    let kept = p.iter().take_while(|&&q| q >= f64::from(options.min_p) * p[0]).count();
    order.truncate(kept);
    let mut probabilities = vec![0.0; logits.len()];
    for (&id, p) in order.iter().zip(softmax(&order, f64::from(options.temperature))) {
        probabilities[id] = p;
    }
    probabilities
}

const DRAWS: u32 = 20_000;

/// How far `counts` of [`DRAWS`] draws are from `expected` probabilities: Pearson's chi-square, as a share of its
/// 99.9% quantile (at most n + 3.1 sqrt(2n) + 6 for the few degrees of freedom n here). More than 1 is too far.
fn distance(counts: &[f64], expected: &[f64]) -> f64 {
    let (mut chi_square, mut freedom) = (0.0, -1.0);
    for (&count, &p) in counts.iter().zip(expected) {
        if p == 0.0 {
            assert_eq!(count, 0.0, "a token that is cut off was drawn: {counts:?} {expected:?}");
        } else {
            let mean = p * f64::from(DRAWS);
            chi_square += (count - mean).powi(2) / mean;
            freedom += 1.0;
        }
    }
    chi_square / (freedom + 3.1 * (2.0f64 * freedom).sqrt() + 6.0)
}

fn follows_its_distribution(options: SamplerOptions, history: &[u32]) {
    let expected = probabilities(&options, &LOGITS, history);
    let mut sampler = Sampler::new(options.clone()).unwrap();
    let mut counts = [0.0; LOGITS.len()];
    for _ in 0..DRAWS {
        counts[sampler.sample(&LOGITS, history).unwrap() as usize] += 1.0;
    }
    let distance = distance(&counts, &expected);
    assert!(distance <= 1.0, "{distance}: {options:?} {counts:?} {expected:?}");
}

#[test]
fn draws_follow_the_exact_distribution() {
    let history = [1, 1, 3, 99, 6, 1];
    for options in [
        plain(),
        SamplerOptions { temperature: 0.5, ..plain() },
        SamplerOptions { temperature: 3.0, ..plain() },
        SamplerOptions { top_k: 1, ..plain() },
        SamplerOptions { top_k: 3, ..plain() },
        SamplerOptions { top_k: 100, ..plain() },
        SamplerOptions { top_p: 0.5, ..plain() },
        SamplerOptions { top_p: 0.85, temperature: 2.0, ..plain() },
        SamplerOptions { top_p: 1e-6, ..plain() },
        SamplerOptions { min_p: 0.2, ..plain() },
        SamplerOptions { min_p: 1.0, ..plain() },
        SamplerOptions { repeat_penalty: 1.5, ..plain() },
        SamplerOptions { repeat_penalty: 1.5, repeat_last_n: 2, ..plain() },
        SamplerOptions { repeat_penalty: 1.5, repeat_last_n: 0, ..plain() },
        SamplerOptions { presence_penalty: 1.0, ..plain() },
        SamplerOptions { frequency_penalty: 0.7, ..plain() },
        SamplerOptions { top_k: 5, top_p: 0.9, min_p: 0.1, temperature: 0.7, repeat_penalty: 1.2, ..plain() },
        SamplerOptions { seed: Some(1), ..SamplerOptions::default() },
    ] {
        follows_its_distribution(options, &history);
    }
}

#[test]
fn the_comparison_notices_a_tenth_of_temperature() {
    let warmer = probabilities(&SamplerOptions { temperature: 1.1, ..plain() }, &LOGITS, &[]);
    let counts: Vec<f64> = warmer.iter().map(|p| p * f64::from(DRAWS)).collect();
    assert!(distance(&counts, &probabilities(&plain(), &LOGITS, &[])) > 1.0);
}

#[test]
fn top_k_is_the_beginning_of_the_sorted_candidates() {
    let mut rng = SplitMix64::new(3);
    for n in [1, 2, 7, 40, 1000] {
        // Few different logits, so that many are equal.
        let logit = |_: u32| (rng.next_unit() * 20.0) as u8 as f32 - 10.0;
        let logits: Vec<f32> = (0..n).map(logit).collect();
        let mut sorted: Vec<Candidate> =
            (0..).zip(&logits).map(|(id, &logit)| Candidate { id, logit }).collect();
        sorted.sort_by(better);
        for k in [1, 2, 3, 39, 40, 500, 5000] {
            let mut kept = vec![Candidate { id: 7, logit: 99.0 }]; // what is left of the last token
            take_top_k(&logits, k, &mut kept);
            assert_eq!(kept, sorted[..k.min(sorted.len())], "{n} candidates, k {k}");
        }
    }
}

#[test]
fn top_p_of_many_is_that_of_the_sorted_candidates() {
    let mut rng = SplitMix64::new(8);
    for n in [1, 63, 64, 65, 1000] {
        let all: Vec<Candidate> =
            (0..n).map(|id| Candidate { id, logit: (rng.next_unit() * 3.0) as f32 }).collect();
        let mut sorted = all.clone();
        sorted.sort_by(better);
        let weights: Vec<f64> = sorted.iter().map(|c| f64::from(c.logit - 3.0).exp()).collect();
        for p in [0.001, 0.1, 0.5, 0.9, 0.999] {
            let enough = f64::from(p) * weights.iter().sum::<f64>();
            let expected = (1..=weights.len()).find(|&n| weights[..n].iter().sum::<f64>() >= enough);
            let mut kept = all.clone();
            keep_top_p(&mut kept, p, 3.0);
            assert_eq!(kept, sorted[..expected.unwrap_or(sorted.len())], "{n} candidates, p {p}");
        }
    }
}

#[test]
fn the_highest_logit_is_the_first_of_equals_wherever_it_is() {
    assert_eq!(argmax(&[]), 0);
    assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NAN, -1.0]), 2);
    for n in [1, 15, 16, 17, 50] {
        for at in 0..n {
            let mut logits = vec![-1.0; n];
            logits[at..].fill(2.5);
            assert_eq!(argmax(&logits), at as u32, "of {n}");
        }
    }
}

#[test]
fn top_p_stops_where_the_sum_is_reached() {
    let equal = [0, 1, 2, 3].map(|id| Candidate { id, logit: 2.0 });
    for (p, expected) in [(0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)] {
        let mut kept = equal.to_vec();
        keep_top_p(&mut kept, p, 2.0);
        assert_eq!(kept, equal[..expected], "{p}");
    }
}

#[test]
fn temperature_0_takes_the_best_and_of_equals_the_lowest_id() {
    let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..plain() }).unwrap();
    assert_eq!(sampler.sample(&LOGITS, &[]).unwrap(), 1);
    let mut sampler =
        Sampler::new(SamplerOptions { temperature: 0.0, repeat_penalty: 1.1, ..plain() }).unwrap();
    assert_eq!(sampler.sample(&LOGITS, &[1]).unwrap(), 5, "penalties come first");
    assert_eq!(sampler.sample(&[-0.5, f32::NEG_INFINITY], &[]).unwrap(), 0);
}

#[test]
fn the_same_seed_gives_the_same_tokens_for_ever() {
    let draw = |seed| {
        let mut sampler = Sampler::new(SamplerOptions { seed: Some(seed), ..plain() }).unwrap();
        assert_eq!(sampler.seed(), seed);
        (0..12).map(|_| sampler.sample(&LOGITS, &[]).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    assert_eq!(draw(42), [5, 1, 1, 1, 0, 5, 1, 5, 1, 5, 1, 3], "users rely on it that this never changes");
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    for temperature in [0.0, 1.0] {
        let mut sampler = Sampler::new(SamplerOptions { temperature, ..plain() }).unwrap();
        for logits in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 3], &[]] {
            assert_eq!(sampler.sample(logits, &[]).unwrap_err().kind(), ErrorKind::Numeric, "{logits:?}");
        }
        let text = sampler.sample(&[0.0, f32::NAN], &[]).unwrap_err().to_string();
        assert!(text.contains("token 1"), "{text}");
    }
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    for (options, name) in [
        (SamplerOptions { temperature: -0.1, ..plain() }, "temperature"),
        (SamplerOptions { temperature: f32::NAN, ..plain() }, "temperature"),
        (SamplerOptions { top_p: 0.0, ..plain() }, "top-p"),
        (SamplerOptions { top_p: 1.01, ..plain() }, "top-p"),
        (SamplerOptions { min_p: -0.1, ..plain() }, "min-p"),
        (SamplerOptions { min_p: f32::NAN, ..plain() }, "min-p"),
        (SamplerOptions { repeat_penalty: 0.0, ..plain() }, "repeat penalty"),
        (SamplerOptions { presence_penalty: f32::INFINITY, ..plain() }, "presence penalty"),
        (SamplerOptions { frequency_penalty: f32::NAN, ..plain() }, "frequency penalty"),
    ] {
        let error = Sampler::new(options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.to_string().starts_with(name), "{error}");
    }
}

#[test]
fn the_best_logits_alone_give_the_same_tokens() {
    let few = SamplerOptions { top_k: 5, ..plain() };
    let all = [
        SamplerOptions { temperature: 0.0, ..plain() },
        few.clone(),
        SamplerOptions { top_p: 0.7, ..few.clone() },
        SamplerOptions { min_p: 0.2, temperature: 0.5, ..few },
    ];
    for options in all {
        let k = Sampler::new(options.clone()).expect("is right").best().expect("a few are enough");
        let [mut whole, mut best] = [(); 2].map(|()| Sampler::new(options.clone()).expect("is right"));
        let mut of_best = Vec::new();
        for shift in 0..200 {
            let logits: Vec<f32> = (0..8).map(|i| LOGITS[(i + shift) % 8] / (1 + shift % 3) as f32).collect();
            super::best(&logits, k, &mut of_best);
            assert_eq!(of_best.len(), k);
            assert_eq!(
                whole.sample(&logits, &[]).expect("a token"),
                best.sample_best(&of_best).expect("a token")
            );
        }
    }
    let penalized = SamplerOptions { repeat_penalty: 1.1, top_k: 5, ..plain() };
    for options in [plain(), penalized] {
        assert_eq!(Sampler::new(options).expect("is right").best(), None);
    }
    let mut sampler = Sampler::new(plain()).expect("is right");
    for logit in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        assert_eq!(sampler.sample_best(&[(3, logit)]).expect_err("no token").kind(), ErrorKind::Numeric);
    }
}
