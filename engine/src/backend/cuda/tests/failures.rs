//! What a user sees of a device that fails, and what is left there.

use super::*;
use crate::backend::cuda::{Loading, Watch};

fn oom() -> DeviceError {
    DeviceError::OutOfMemory { asked: 5_000_000_000, free: 1_000_000, total: 8_000_000_000 }
}

fn lost() -> DeviceError {
    DeviceError::Lost("it fell off the bus".to_owned())
}

fn place(model: &mut Model, fake: &Fake) -> Placement {
    let device = Ok(Box::new(fake.clone()) as Box<dyn Device + Send>);
    place_on(model, vec![(0, device)], GpuLayers::Auto, Capacity::ONE, &options()).expect("a place")
}

/// Nothing is left but so many bytes, not even on its way.
#[track_caller]
fn assert_clean(fake: &Fake, taken: usize) {
    let (now, copies) = {
        let log = fake.log();
        (log.taken, log.copies.len())
    };
    assert_eq!((now, copies), (taken, 0));
}

#[test]
fn whatever_fails_while_weights_are_copied_leaves_nothing_behind() {
    for call in [Call::Reserve, Call::Allocate, Call::HostBuffer, Call::Send, Call::Reclaim] {
        let last = if call == Call::Allocate { 10 } else { 0 };
        for (after, e) in [(0, oom()), (last, oom()), (last, DeviceError::Operands("it is odd".to_owned()))] {
            let fake = Fake::new(1 << 30);
            let mut model = model();
            fake.fail(call, after, e.clone());
            let error = model.move_to(Box::new(fake.clone())).expect_err("it fails");
            assert!(
                error.kind() == ErrorKind::Device && error.to_string().contains(&e.to_string()),
                "{error}"
            );
            assert_clean(&fake, 0);
            // the model runs where it ran before
            read(&mut Session::new(&model, &options()).expect("a session"), &[1]).expect("is read");
        }
    }
}

#[test]
fn what_another_program_took_meanwhile_sends_a_model_to_the_cpu() {
    for call in [Call::Reserve, Call::Allocate] {
        let fake = Fake::new(1 << 30);
        let mut model = model();
        fake.fail(call, 0, oom());
        let Placement::Cpu { because: Some(because), beside_gpu: true } = place(&mut model, &fake) else {
            panic!("there was no room");
        };
        let want = "out of GPU memory: 5000000000 bytes were asked for, 1000000 of 8000000000 are free";
        assert!(because.contains(want), "{because}");
        assert_clean(&fake, 0);
        let mut session = Session::new(&model, &options()).expect("a session on the CPU");
        read(&mut session, &[1]).expect("is read");
    }
}

#[test]
fn whatever_fails_when_a_session_begins_leaves_the_others_as_they_are() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    model.move_to(Box::new(fake.clone())).expect("there is room");
    let mut first = Session::new(&model, &options()).expect("there is room");
    let taken = fake.log().taken;
    for (call, after) in
        [(Call::Reserve, 0), (Call::Allocate, 0), (Call::Allocate, 25), (Call::Upload, 0), (Call::Clear, 3)]
    {
        fake.fail(call, after, oom());
        let error = Session::new(&model, &options()).expect_err("it fails");
        let text = error.to_string();
        assert!(text.contains("5000000000 bytes were asked for, 1000000 of"), "{text}");
        assert!(text.ends_with("or run it on the CPU"), "{text}");
        assert_clean(&fake, taken);
        read(&mut first, &[1]).expect("is read");
    }
}

/// A session that does not fit is refused with all that it takes, and not with the first part that found no room.
#[test]
fn a_refusal_names_all_bytes() {
    let mut model = model();
    let weights = super::super::weight_bytes(&model, Part::all(model.layers.len())).expect("is a number");
    let fake = Fake::new(weights + 10_000);
    let error = model.move_to(Box::new(Fake::new(weights - 1))).expect_err("a byte too few");
    let want = format!("{weights} bytes were asked for, {} of {} are free", weights - 1, weights - 1);
    assert!(error.to_string().contains(&want), "{error}");
    model.move_to(Box::new(fake.clone())).expect("the weights alone");
    let all = of_session(&model, model.spec(), &fake.properties);
    let error = Session::new(&model, &options()).expect_err("no room for a cache");
    assert!(error.to_string().contains(&format!("{all} bytes were asked for")), "{error}");
    let log = fake.log();
    assert_eq!(log.allocations, log.held.len(), "nothing was tried");
}

#[test]
fn a_device_that_was_lost_once_stays_lost_and_nothing_starts_again() {
    for call in [Call::Upload, Call::Replay, Call::Download] {
        let fake = Fake::new(1 << 30);
        let mut model = model();
        assert!(matches!(place(&mut model, &fake), Placement::Gpu { .. }));
        let mut session = Session::new(&model, &options()).expect("there is room");
        (0..3).for_each(|token| read(&mut session, &[token]).expect("is read"));
        fake.fail(call, 1, lost());
        read(&mut session, &[3]).expect("is read");
        let mut rows = 0;
        let mut count = |_: usize, _: &[_]| {
            rows += 1;
            ControlFlow::Continue(())
        };
        let error = session.eval_best(&[4], Logits::Last, 1, &mut count).expect_err("the device is lost");
        let text = error.to_string();
        let next = "the GPU was lost: it fell off the bus; start again; if it happens again, run the model on the CPU";
        assert!(error.kind() == ErrorKind::Device && text.ends_with(next), "{text}");
        assert_eq!(rows, 0, "nothing is handed out that may be wrong");
        // the fake would work again
        fake.forget();
        assert_eq!(read(&mut session, &[5]).expect_err("stays lost").to_string(), text);
        let again = Session::new(&model, &options()).expect_err("stays lost");
        assert_eq!(again.to_string(), text, "and not on the CPU");
        drop(session);
        let log = fake.log();
        assert_eq!((log.uploaded, log.replays, log.launches.len()), (0, 0, 0), "nothing was asked of it");
    }
}

#[test]
fn graphs_end_with_their_session() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    model.move_to(Box::new(fake.clone())).expect("there is room");
    for sessions in 1..4 {
        let mut session = Session::new(&model, &options()).expect("there is room");
        for _ in 0..3 {
            read(&mut session, &[1]).expect("is read");
            read(&mut session, &[1, 2]).expect("is read");
        }
        let (now, ever) = {
            let log = fake.log();
            (log.graphs.len(), log.captures)
        };
        assert_eq!((now, ever), (2, 2 * sessions), "one of a token and one of two");
        drop(session);
        assert_eq!(fake.log().graphs, []);
    }
}

#[test]
fn a_launch_that_fails_leaves_no_graph() {
    let fake = Fake::new(1 << 30);
    let mut model = model();
    model.move_to(Box::new(fake.clone())).expect("there is room");
    let mut session = Session::new(&model, &options()).expect("there is room");
    read(&mut session, &[1]).expect("is launched");
    fake.fail(Call::Launch, 3, DeviceError::Operands("it is odd".to_owned()));
    read(&mut session, &[1]).expect_err("is captured");
    let log = fake.log();
    assert_eq!((log.captures, &log.graphs[..]), (1, &[][..]));
}

/// A kernel that cannot be loaded is found out before anything is copied, and all that are launched were loaded.
#[test]
fn kernels_are_loaded_before_weights() {
    let bad = || DeviceError::Load {
        module: "norm",
        message: "a PTX JIT compilation failed".to_owned(),
        log: "line 12; fatal".to_owned(),
    };
    for after in [0, 4] {
        let fake = Fake::new(1 << 30);
        let mut model = model();
        fake.fail(Call::Prepare, after, bad());
        let Placement::Cpu { because: Some(because), beside_gpu: true } = place(&mut model, &fake) else {
            panic!("it cannot run there")
        };
        assert!(because.contains("kernels norm: a PTX JIT compilation failed; line 12; fatal"), "{because}");
        assert_clean(&fake, 0);
        let log = fake.log();
        assert_eq!((log.prepared.len(), log.allocations, log.uploaded), (after, 0, 0));
    }
    let fake = Fake::new(1 << 30);
    let mut model = model();
    model.move_to(Box::new(fake.clone())).expect("there is room");
    let prepared: Vec<_> = fake.log().prepared.iter().map(|name| module_of(name)).collect();
    let mut session = Session::new(&model, &options()).expect("there is room");
    [1, 2, 8, 9, 60].into_iter().for_each(|n| read(&mut session, &vec![1; n]).expect("is read"));
    let launched: Vec<_> = fake.log().launches.iter().map(|name| module_of(name)).collect();
    assert!(launched.len() > 100 && launched.iter().all(|module| prepared.contains(module)), "{prepared:?}");
    // no others: of one format those for few and for many columns
    let of_format = prepared.iter().filter(|module| module.contains("_q") && !module.ends_with("_q8_0"));
    assert_eq!(of_format.count(), 0, "{prepared:?}");
}

fn module_of(kernel: &str) -> &'static str {
    Kernel::find(kernel).expect("is a kernel").module.name
}

#[test]
fn loading_is_watched_and_can_be_ended() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let (fake, mut model) = (Fake::new(1 << 30), model());
    let note = told.clone();
    model.watch_loading(Some(Watch::new(move |loading| {
        note.lock().expect("no test panicked").push(loading);
        ControlFlow::Continue(())
    })));
    model.move_to(Box::new(fake.clone())).expect("there is room");
    let last = told.lock().expect("no test panicked").last().copied().expect("something was told");
    let uploaded = fake.log().uploaded as u64;
    assert_eq!(last, Loading { done: uploaded, total: uploaded });

    let fake = Fake::new(1 << 30);
    model.watch_loading(Some(Watch::new(|_| ControlFlow::Break(()))));
    let error = model.move_to(Box::new(fake.clone())).expect_err("was ended");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_clean(&fake, 0);
    model.watch_loading(None);
    model.move_to(Box::new(fake)).expect("nobody ends it");
}
