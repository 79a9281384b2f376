//! Memory that is promised to one session is not promised to another. The only test of this program: while it runs, others
//! would find no memory.

use braise_engine::error::ErrorKind;
use braise_engine::kv::KvTypes;
use braise_engine::memory;
use braise_engine::model::Model;
use braise_engine::plan::{Outline, Request};
use braise_engine::session::{Session, SessionOptions};
use braise_kernels::isa::Isa;
use braise_tests::families::write;

#[test]
fn two_sessions_are_not_promised_the_same_memory() {
    let Some(memory) = memory::now().filter(|_| cfg!(target_os = "linux")) else {
        return println!("skipped: the system does not tell how much memory there is and was taken");
    };
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    write("llama", file.path());
    let model = Model::open(file.path(), Isa::best()).expect("the model opens");
    let request = Request {
        n_ctx: 1 << 40,
        n_seq: 1,
        tokens: None,
        chunk: Some(64),
        kv: KvTypes::default(),
        threads: 1,
    };
    // of which only what is used would be taken
    let n_ctx = Outline::of(&model).longest_context(&request, memory.available / 10 * 6);
    let options =
        SessionOptions { n_ctx: Some(n_ctx), threads: Some(1), chunk: Some(64), ..SessionOptions::default() };
    let first = Session::new(&model, &options).expect("there is that much");
    let error = Session::new(&model, &options).expect_err("it was promised to the first");
    assert_eq!(error.kind(), ErrorKind::Memory, "{error}");
    drop(first);
    Session::new(&model, &options).expect("it was given back");
}
