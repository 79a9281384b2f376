//! Models whose parts lie on several devices, the CPU and interpreters of PTX, against the same models on the CPU.

use std::ops::ControlFlow;

use braise_engine::backend::cuda;
use braise_engine::block::{Mlp, Pooling, Spec};
use braise_engine::device::{GpuLayers, Placement, place_on};
use braise_engine::measure::Agreement;
use braise_engine::model::Model;
use braise_engine::parts::{Assignment, Location, Part};
use braise_engine::sequences::{Capacity, Row, SequenceId, Sequences, Work};
use braise_engine::session::{Logits, Session, SessionOptions};
use braise_kernels::cuda::Device;
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_tests::families::{tokens, write_with};
use braise_tests::interpreter::Interpreter;
use braise_tests::logits::{eval, nmse, recipe};
use tempfile::NamedTempFile;

/// Largest error (NMSE) of few tokens: what `cuda_model.rs` allows a whole model of four layers on a GPU, of which a part
/// cannot be further off.
const FEW: f64 = 6.4e-7;

/// The same of many.
const MANY: f64 = 1e-3;

/// How a model of so many layers is divided.
type Divide = fn(&Spec, Part) -> Location;

/// The last half of the layers and the output on the GPU.
fn last_half(spec: &Spec, part: Part) -> Location {
    match part.layer() {
        Some(i) if 2 * i >= spec.layers.len() => Location::Gpu(0),
        None if part == Part::Output => Location::Gpu(0),
        _ => Location::Cpu,
    }
}

/// The first layer alone on the GPU, so that the output is on the CPU.
fn first_layer(_: &Spec, part: Part) -> Location {
    if part.layer() == Some(0) { Location::Gpu(0) } else { Location::Cpu }
}

/// All on the GPU but the experts of all layers but the last.
fn experts_on_cpu(spec: &Spec, part: Part) -> Location {
    match part {
        Part::Mlp(i) if i + 1 < spec.layers.len() && is_mixture(spec, i) => Location::Cpu,
        _ => Location::Gpu(0),
    }
}

/// All feed-forward networks on the CPU.
fn networks_on_cpu(_: &Spec, part: Part) -> Location {
    if matches!(part, Part::Mlp(_)) { Location::Cpu } else { Location::Gpu(0) }
}

/// Layers 0 and 1, and the others, on two GPUs.
fn two_gpus(_: &Spec, part: Part) -> Location {
    if part < Part::Mixer(2) { Location::Gpu(0) } else { Location::Gpu(1) }
}

/// Layers by turns on three devices.
fn by_turns(_: &Spec, part: Part) -> Location {
    [Location::Gpu(1), Location::Cpu, Location::Gpu(0)][part.layer().unwrap_or(0) % 3]
}

fn is_mixture(spec: &Spec, layer: usize) -> bool {
    matches!(spec.layers[layer].mlp, Mlp::Experts(_))
}

fn options() -> SessionOptions {
    SessionOptions { threads: Some(2), chunk: Some(64), n_ctx: Some(512), ..SessionOptions::default() }
}

fn session<'m>(model: &'m Model, options: &SessionOptions) -> Session<'m> {
    Session::new(model, options).expect("a session")
}

fn divided(mut model: Model, divide: Divide) -> Model {
    let assignment = Assignment::new(model.spec().layers.len(), |part| divide(model.spec(), part));
    let gpu = |place| if let Location::Gpu(i) = place { i + 1 } else { 0 };
    let n = assignment.parts().map(|(_, place)| gpu(place)).max().unwrap_or(0);
    let devices = (0..n).map(|_| Box::new(Interpreter::default()) as Box<dyn Device + Send>).collect();
    model.split(devices, &assignment).expect("there is room");
    model
}

/// The logits of single tokens, of which the first steps are launched and captured and the others replayed, and of some
/// together; and of many.
fn of_few(model: &Model) -> Vec<f32> {
    let tokens = tokens(model.spec().n_vocab);
    let mut session = session(model, &options());
    let mut logits = Vec::new();
    for part in [&tokens[..1], &tokens[1..2], &tokens[2..3], &tokens[3..4], &tokens[4..7]] {
        logits.extend(eval(&mut session, part, Logits::All));
    }
    logits
}

fn of_many(model: &Model) -> Vec<f32> {
    let tokens = tokens(model.spec().n_vocab);
    let mut session = session(model, &options());
    let mut logits = eval(&mut session, &tokens[..70], Logits::Last);
    logits.extend(eval(&mut session, &tokens[70..90], Logits::All));
    logits.extend(eval(&mut session, &tokens[90..91], Logits::All));
    logits
}

fn check(name: &str, ways: &[(&str, Divide)]) {
    let few = of_few(&recipe(name, false));
    let many = of_many(&recipe(name, true));
    for (way, divide) in ways {
        let errors = [
            nmse(&few, &of_few(&divided(recipe(name, false), *divide))),
            nmse(&many, &of_many(&divided(recipe(name, true), *divide))),
        ];
        println!("{name}, {way}: {:.1e} and {:.1e}", errors[0], errors[1]);
        assert!(errors[0] <= FEW && errors[1] <= MANY, "{name}, {way}: {errors:?}");
    }
}

#[test]
fn dense_layers_may_lie_anywhere() {
    check(
        "llama",
        &[
            ("the last half", last_half),
            ("the first layer", first_layer),
            ("networks on the CPU", networks_on_cpu),
            ("two GPUs", two_gpus),
            ("by turns", by_turns),
        ],
    );
}

#[test]
fn layers_with_windows_may_lie_anywhere() {
    check("gemma3", &[("the last half", last_half), ("by turns", by_turns)]);
}

#[test]
fn experts_may_stay_on_the_cpu() {
    check("qwen3moe", &[("experts", experts_on_cpu), ("the last half", last_half), ("two GPUs", two_gpus)]);
    check("ernie4_5-moe", &[("experts", experts_on_cpu)]);
}

#[test]
fn layers_with_sinks_may_lie_anywhere() {
    check("gpt-oss", &[("experts", experts_on_cpu), ("by turns", by_turns)]);
}

#[test]
fn recurrent_layers_may_lie_anywhere() {
    check("falcon-h1", &[("the last half", last_half), ("by turns", by_turns)]);
    check("qwen3next", &[("experts", experts_on_cpu), ("two GPUs", two_gpus)]);
}

#[test]
fn parallel_layers_are_not_torn() {
    let mut model = recipe("phi2", false);
    let torn = Assignment::new(model.spec().layers.len(), |part| networks_on_cpu(model.spec(), part));
    assert_eq!(torn.torn(model.spec()), Some((Part::Mlp(0), Part::Mixer(0))));
    assert!(model.split(vec![Box::new(Interpreter::default())], &torn).is_err());
    check("phi2", &[("the last half", last_half)]);
    // its experts are chosen before the mixer
    let model = recipe("smallthinker", false);
    let torn = Assignment::new(model.spec().layers.len(), |part| experts_on_cpu(model.spec(), part));
    assert_eq!(torn.torn(model.spec()), Some((Part::Mlp(0), Part::Mixer(0))));
}

#[test]
fn encoders_may_be_divided() {
    let embed = |model: &Model| {
        let tokens = tokens(model.spec().n_vocab);
        let options = SessionOptions { n_ctx: Some(64), ..options() };
        let mut session = session(model, &options);
        [Pooling::Mean, Pooling::First]
            .map(|pooling| session.embed(&tokens[..5], pooling).expect("is embedded"))
            .concat()
    };
    let want = embed(&recipe("bert", false));
    for divide in [last_half as Divide, first_layer, two_gpus] {
        let error = nmse(&want, &embed(&divided(recipe("bert", false), divide)));
        assert!(error <= FEW, "{error:.1e}");
    }
}

/// What is forgotten leaves no trace, on whichever device, also where windows have given up what comes before, and where
/// recurrent layers read again.
#[test]
fn forgotten_tokens_leave_no_trace() {
    let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    let ways: [(&str, Divide, &[usize]); 3] =
        [("llama", by_turns, &[70, 12]), ("gemma3", last_half, &[300, 290]), ("falcon-h1", by_turns, &[20])];
    for (name, divide, lens) in ways {
        let model = divided(recipe(name, false), divide);
        let tokens: Vec<u32> = tokens(model.spec().n_vocab).into_iter().cycle().take(400).collect();
        let mut session = session(&model, &options());
        for &n in lens {
            eval(&mut session, &tokens[..n], Logits::None);
            eval(&mut session, &tokens[n + 30..n + 50], Logits::None);
            session.truncate(n);
            eval(&mut session, &tokens[n + 3..n + 6], Logits::None);
            session.truncate(n);
            session.settle().expect("is read again");
            let again = eval(&mut session, &tokens[n..n + 2], Logits::All);
            let mut fresh = Session::new(&model, &options()).expect("a session");
            eval(&mut fresh, &tokens[..n], Logits::None);
            assert_eq!(
                bits(again),
                bits(eval(&mut fresh, &tokens[n..n + 2], Logits::All)),
                "{name} after {n}"
            );
            session.truncate(0);
        }
    }
}

/// Sequences in common steps, one of them a fork, get what each gets alone.
#[test]
fn sequences_share_steps() {
    for (name, divide) in [("llama", by_turns as Divide), ("falcon-h1", last_half)] {
        let model = divided(recipe(name, false), divide);
        let tokens = tokens(model.spec().n_vocab);
        let (first, second) = (&tokens[..6], &tokens[20..22]);
        let capacity = Capacity { sequences: 3, tokens: None };
        let mut all = Sequences::new(&model, capacity, &options()).expect("there is room");
        let ids = [0, 1].map(|_| all.add().expect("there is room"));
        let step = |all: &mut Sequences<'_>, work: &[(SequenceId, &[u32])]| {
            let work = work.iter().map(|(sequence, tokens)| Work {
                sequence: *sequence,
                tokens,
                logits: Logits::Last,
            });
            let mut rows = Vec::new();
            let mut sink = |row: Row<'_>| {
                rows.push(row.logits.expect("are numbers").to_vec());
                ControlFlow::Continue(())
            };
            all.step(&work.collect::<Vec<_>>(), &mut sink).expect("the tokens are read");
            rows
        };
        step(&mut all, &[(ids[0], first), (ids[1], second)]);
        let fork = all.fork(ids[0], first.len()).expect("there is room");
        let (a, b, c) = (&tokens[40..41], &tokens[41..42], &tokens[42..43]);
        let together = step(&mut all, &[(ids[0], a), (ids[1], b), (fork, c)]);
        for (prompt, token, row) in
            [(first, a, &together[0]), (second, b, &together[1]), (first, c, &together[2])]
        {
            let mut alone = session(&model, &options());
            eval(&mut alone, prompt, Logits::None);
            let error = nmse(&eval(&mut alone, token, Logits::Last), row);
            assert!(error <= FEW, "{name}: {error:.1e}");
        }
    }
}

#[test]
fn the_best_logits_are_those_of_all() {
    for (divide, on_gpu) in [(last_half as Divide, true), (first_layer, false)] {
        let model = divided(recipe("llama", false), divide);
        let tokens = &tokens(model.spec().n_vocab)[..12];
        let mut all = session(&model, &options());
        assert_eq!(all.finds_best(), on_gpu);
        let all = eval(&mut all, tokens, Logits::All);
        let mut rows = all.chunks_exact(model.spec().n_vocab);
        let mut best = session(&model, &options());
        let mut sink = |_, best: &[(u32, f32)]| {
            let mut want: Vec<_> = (0..).zip(rows.next().expect("a row").iter().copied()).collect();
            want.sort_by(|a: &(u32, f32), b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            assert_eq!(best, &want[..5]);
            ControlFlow::Continue(())
        };
        best.eval_best(tokens, Logits::All, 5, &mut sink).expect("the tokens are read");
        assert!(rows.next().is_none(), "all rows were handed out");
    }
}

/// What is taken on a GPU of a model's weights, and of a session.
fn taken(name: &str) -> (usize, usize) {
    let mut model = recipe(name, false);
    let weights = model.move_to(Box::new(Interpreter::default())).expect("there is room");
    let of_session = session(&model, &options()).cache_bytes();
    (weights, of_session as usize)
}

/// Puts what fits of a model on interpreters with so many bytes besides those that are left to the driver; what is said of it.
fn placed(name: &str, totals: &[usize]) -> (Model, String) {
    placed_model(recipe(name, false), totals)
}

fn placed_model(mut model: Model, totals: &[usize]) -> (Model, String) {
    const RESERVE: usize = 256 << 20;
    let device = |total: &usize| Box::new(Interpreter::of_memory(RESERVE + total)) as Box<dyn Device + Send>;
    let devices = totals.iter().map(|total| Ok(device(total))).enumerate();
    let placement = place_on(&mut model, devices.collect(), GpuLayers::Auto, Capacity::ONE, &options());
    let text = match placement.expect("is placed somewhere") {
        Placement::Gpu { index, .. } => format!("all: cuda:{index}"),
        Placement::Split(split) => split.to_string(),
        Placement::Cpu { because, .. } => format!("CPU: {}", because.expect("a reason")),
    };
    (model, text)
}

/// An interpreter refuses memory that it does not have: what was planned has room, and no more was taken than is free.
#[test]
fn a_gpu_with_little_memory_gets_what_fits() {
    for name in ["llama", "qwen3moe", "falcon-h1"] {
        let want = of_few(&recipe(name, false));
        let (weights, of_session) = taken(name);
        let whole = weights + of_session;
        let (_, text) = placed(name, &[whole]);
        assert_eq!(text, "all: cuda:0", "{name}");
        let mut seen = String::new();
        for share in [0, 2, 5] {
            let total = whole - 1 - weights * share / 10;
            let (model, text) = placed(name, &[total]);
            println!("{name}, {total} of {whole} bytes: {text}");
            assert!(text.starts_with("the input") && text.contains(": CPU (the model takes"), "{text}");
            assert!(text.ends_with("the output: cuda:0 interpreter"), "{text}");
            let error = nmse(&want, &of_few(&model));
            assert!(error <= FEW, "{name}: {error:.1e}, {text}");
            seen.push_str(&text);
        }
        assert_eq!(seen.contains("the experts of layer"), name == "qwen3moe", "{seen}");
        // nothing of it is worth a GPU
        let (_, text) = placed(name, &[of_session / 2]);
        assert!(text.starts_with("CPU: the model takes"), "{text}");
        // where one of two has too little, both have enough
        let (model, text) = placed(name, &[whole - weights / 2, whole - weights / 2]);
        assert!(text.contains("cuda:0") && text.contains("cuda:1") && !text.contains("CPU"), "{text}");
        let error = nmse(&want, &of_few(&model));
        assert!(error <= FEW, "{name}: {error:.1e}, {text}");
    }
}

/// Of a model of which GPUs have kernels for some layers: its convolution covers more tokens than any kernel's.
#[test]
fn layers_without_kernels_stay_on_the_cpu() {
    let wide = || {
        let file = NamedTempFile::new().expect("a temporary file");
        let changes = [("shortconv.l_cache", "40"), ("shortconv.conv.weight", "40 256")];
        write_with("lfm2", Type::F32, &changes, file.path());
        Model::open(file.path(), Isa::Portable).expect("a model")
    };
    let model = wide();
    let lacking: Vec<_> = (0..2).map(|i| cuda::unsupported_part(&model, Part::Mixer(i))).collect();
    assert_eq!(lacking, [None, Some("convolutions of 40 tokens".to_owned())]);
    let (placed, text) = placed_model(wide(), &[1 << 30]);
    assert!(text.contains("layer 1: CPU (there are no GPU kernels for convolutions of 40 tokens)"), "{text}");
    assert!(text.ends_with("layer 0 and the output: cuda:0 interpreter"), "{text}");
    let error = nmse(&of_few(&model), &of_few(&placed));
    assert!(error <= FEW, "{error:.1e}, {text}");
    let device = Ok(Box::new(Interpreter::default()) as Box<dyn Device + Send>);
    let all = place_on(&mut wide(), vec![(0, device)], GpuLayers::All, Capacity::ONE, &options());
    assert!(all.expect_err("not all").to_string().contains("convolutions of 40 tokens"));
}

/// What `braise doctor` asks of a GPU, with all of the model there, the last layers and the output, and the output alone.
#[test]
fn a_device_agrees_with_the_cpu() {
    for layers in [GpuLayers::All, GpuLayers::Last(3), GpuLayers::Last(1)] {
        let agreement = Agreement::of(Ok(Box::new(Interpreter::default())), layers).expect("it runs");
        println!("{layers}: {agreement:?}");
        assert!(agreement.is_right(), "{layers}: {agreement:?}");
    }
    let e = Agreement::of(Ok(Box::new(Interpreter::of_memory(1 << 20))), GpuLayers::All);
    assert!(e.expect_err("it is too small").to_string().contains("free"));
    assert!(
        !Agreement { many: 1e-4, few: 0.2 }.is_right() && !Agreement { many: f64::NAN, few: 0.0 }.is_right()
    );
}
