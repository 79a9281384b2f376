//! The interpreter of PTX as a device.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use braise_kernels::cuda::{
    Address, Device, Error, Graph, HostBuffer, Kernel, Launch, Memory, Module, Piece, Properties, Transfer,
};

use crate::ptx;

/// A machine that interprets the PTX that braise ships.
pub struct Interpreter {
    machine: ptx::Machine,
    modules: HashMap<&'static str, Arc<ptx::Module>>,
    /// Whether kernels were prepared: then one of a module that was not loaded then is an error.
    is_prepared: bool,
    properties: Properties,
    /// Bytes of its memory, and those of each allocation.
    total: usize,
    taken: HashMap<Address, usize>,
    /// `None`: it was destroyed.
    graphs: Vec<Option<Vec<Launch>>>,
    capture: Option<Vec<Launch>>,
    /// Copies that were begun. They are made when they are waited for, no sooner, so that what is read before is not there.
    copies: HashMap<u64, (HostBuffer, Vec<Piece>)>,
    begun: u64,
}

impl Default for Interpreter {
    fn default() -> Self {
        let properties = Properties {
            name: "interpreter".to_owned(),
            compute: (8, 0),
            multiprocessors: 4,
            shared_bytes: 164 << 10,
            warpgroups: false,
        };
        Interpreter {
            machine: ptx::Machine::new(),
            modules: HashMap::new(),
            is_prepared: false,
            properties,
            total: 1 << 30,
            taken: HashMap::new(),
            graphs: Vec::new(),
            capture: None,
            copies: HashMap::new(),
            begun: 0,
        }
    }
}

fn lost(what: impl std::fmt::Display) -> Error {
    Error::Lost(what.to_string())
}

/// A module, which all machines of this process share: to parse one takes longer than most launches.
fn parsed(module: &'static Module) -> Result<Arc<ptx::Module>, Error> {
    static PARSED: Mutex<BTreeMap<&'static str, Arc<ptx::Module>>> = Mutex::new(BTreeMap::new());
    // nobody leaves it half done
    let mut all = PARSED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(parsed) = all.get(module.name) {
        return Ok(parsed.clone());
    }
    let parsed = ptx::Module::parse(module.ptx()).map_err(|e| lost(format!("{}: {e}", module.name)))?;
    let parsed = Arc::new(parsed);
    all.insert(module.name, parsed.clone());
    Ok(parsed)
}

impl Interpreter {
    /// One of another compute capability, which loads the modules of that alone.
    pub fn of_compute(compute: (u32, u32)) -> Interpreter {
        let mut interpreter = Interpreter::default();
        interpreter.properties.compute = compute;
        interpreter.properties.warpgroups = compute == Properties::WARPGROUPS;
        interpreter
    }

    /// One that has no more than `total` bytes of memory.
    pub fn of_memory(total: usize) -> Interpreter {
        Interpreter { total, ..Interpreter::default() }
    }

    fn free_bytes(&self) -> usize {
        self.total - self.taken.values().sum::<usize>()
    }

    fn outside(&self, what: &'static str) -> Result<(), Error> {
        if self.capture.is_some() { Err(Error::Capturing(what)) } else { Ok(()) }
    }

    /// Parses the module of a kernel, if that was not done before.
    fn load(&mut self, kernel: &'static Kernel) -> Result<(), Error> {
        let module = kernel.module;
        let (major, minor) = self.properties.compute;
        if !module.runs_on((major, minor)) {
            let (name, least) = (self.properties.name.clone(), module.compute);
            return Err(Error::Unsupported { name, major, minor, needed: module.name, least });
        }
        if !self.modules.contains_key(module.name) {
            self.modules.insert(module.name, parsed(module)?);
        }
        Ok(())
    }

    fn interpret(&mut self, launch: &Launch) -> Result<(), Error> {
        let module = launch.kernel.module;
        if self.is_prepared && !self.modules.contains_key(module.name) {
            return Err(lost(format!("{} was not prepared", launch.kernel.name)));
        }
        self.load(launch.kernel)?;
        let parsed = &self.modules[module.name];
        let Launch { kernel, grid, block, shared, params } = launch;
        self.machine.launch(parsed, kernel.name, *grid, *block, *shared, params).map_err(lost)?;
        Ok(())
    }
}

impl Device for Interpreter {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&mut self) -> Result<Memory, Error> {
        Ok(Memory { free: self.free_bytes(), total: self.total })
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address, Error> {
        self.outside("memory cannot be allocated")?;
        let (free, filled) = (self.free_bytes(), bytes.next_multiple_of(256));
        if filled > free {
            return Err(Error::OutOfMemory { asked: bytes, free, total: self.total });
        }
        let at = Address(self.machine.alloc(bytes));
        self.taken.insert(at, filled);
        Ok(at)
    }

    fn free(&mut self, address: Address) -> Result<(), Error> {
        self.outside("memory cannot be freed")?;
        self.taken.remove(&address);
        self.machine.free(address.0).map_err(lost)
    }

    fn send(&mut self, buffer: HostBuffer, pieces: &[Piece]) -> Result<Transfer, Error> {
        self.outside("memory cannot be uploaded")?;
        self.begun += 1;
        self.copies.insert(self.begun, (buffer, pieces.to_vec()));
        Ok(Transfer::Running(self.begun))
    }

    fn reclaim(&mut self, transfer: Transfer) -> Result<HostBuffer, Error> {
        let Transfer::Running(number) = transfer else { return Err(lost("no copy is done at once")) };
        let (buffer, pieces) = self.copies.remove(&number).ok_or_else(|| lost("no such copy"))?;
        for piece in &pieces {
            self.machine.write(piece.to.0, piece.of(&buffer)?).map_err(lost)?;
        }
        Ok(buffer)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Error> {
        self.outside("memory cannot be uploaded")?;
        self.machine.write(to.0, bytes).map_err(lost)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Error> {
        self.outside("memory cannot be downloaded")?;
        bytes.copy_from_slice(&self.machine.read(from.0, bytes.len()).map_err(lost)?);
        Ok(())
    }

    fn clear(&mut self, at: Address, bytes: usize) -> Result<(), Error> {
        self.machine.write(at.0, &vec![0; bytes]).map_err(lost)
    }

    fn prepare(&mut self, kernel: &'static Kernel) -> Result<(), Error> {
        self.outside("kernels cannot be loaded")?;
        self.is_prepared = true;
        self.load(kernel)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), Error> {
        match &mut self.capture {
            Some(launches) => launches.push(launch.clone()),
            None => self.interpret(launch)?,
        }
        Ok(())
    }

    fn begin_capture(&mut self) -> Result<(), Error> {
        self.outside("another one cannot be begun")?;
        self.capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph, Error> {
        let launches = self.capture.take().ok_or_else(|| lost("nothing is being captured"))?;
        self.graphs.push(Some(launches));
        Ok(Graph::new(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.outside("a graph cannot be run")?;
        let launches = self.graphs.get(graph.number()).and_then(Option::clone);
        let launches = launches.ok_or_else(|| lost("no such graph"))?;
        launches.iter().try_for_each(|launch| self.interpret(launch))
    }

    fn destroy(&mut self, graph: Graph) -> Result<(), Error> {
        let launches = self.graphs.get_mut(graph.number()).and_then(Option::take);
        launches.map(drop).ok_or_else(|| lost("no such graph"))
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        self.outside("nothing can be waited for")
    }
}
