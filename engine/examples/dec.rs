//! scratch
use braise_engine::{model::Model, session::*};
use braise_kernels::isa::Isa;
use std::ops::ControlFlow;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let isa = Isa::by_name(a.get(3).map_or("avx512vnni", |s| s)).unwrap();
    let m = Model::open(std::path::Path::new(&a[1]), isa).unwrap();
    let threads: usize = a[2].parse().unwrap();
    let mut s = Session::new(
        &m,
        &SessionOptions {
            n_ctx: Some(2048),
            threads: Some(threads),
            chunk: std::env::var("CHUNK").ok().map(|c| c.parse().unwrap()),
        },
    )
    .unwrap();
    let mode = a[4].as_str();
    let toks: Vec<u32> = (0..512).map(|i| (i * 37 % 40000) as u32).collect();
    let t = std::time::Instant::now();
    let n = if mode == "pp" { 3 } else { 10 };
    for _ in 0..n {
        s.truncate(0);
        if mode == "pp" {
            s.eval(&toks, Logits::Last, &mut |_, _| ControlFlow::Continue(())).unwrap();
        } else {
            for i in 0..64 {
                s.eval(&toks[i..i + 1], Logits::Last, &mut |_, _| ControlFlow::Continue(())).unwrap();
            }
        }
    }
    let per = if mode == "pp" { 512 } else { 64 };
    println!("{mode} {:.1} tok/s", (n * per) as f64 / t.elapsed().as_secs_f64());
}
