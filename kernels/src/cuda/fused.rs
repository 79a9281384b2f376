//! A device that stays lost.

use super::{Address, Device, Error, Graph, HostBuffer, Kernel, Launch, Memory, Piece, Properties, Transfer};

/// A device of which nothing more is asked once it was lost: all fails at once then, for the reason that was given first. A
/// driver may answer some calls even so, or give each another reason.
pub struct Fused {
    device: Box<dyn Device + Send>,
    properties: Properties,
    lost: Option<Error>,
}

impl Fused {
    /// `device`, as long as it lasts.
    pub fn new(device: Box<dyn Device + Send>) -> Fused {
        let properties = device.properties().clone();
        Fused { device, properties, lost: None }
    }

    /// From now on no matrix is multiplied by warpgroups.
    pub fn forgo_warpgroups(&mut self) {
        self.properties.warpgroups = false;
    }

    fn ask<T>(&mut self, what: impl FnOnce(&mut dyn Device) -> Result<T, Error>) -> Result<T, Error> {
        if let Some(e) = &self.lost {
            return Err(e.clone());
        }
        let answer = what(&mut *self.device);
        if let Err(e @ Error::Lost(_)) = &answer {
            self.lost = Some(e.clone());
        }
        answer
    }
}

impl Device for Fused {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&mut self) -> Result<Memory, Error> {
        self.ask(|device| device.memory())
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address, Error> {
        self.ask(|device| device.allocate(bytes))
    }

    fn free(&mut self, address: Address) -> Result<(), Error> {
        self.ask(|device| device.free(address))
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        self.ask(|device| device.reserve(bytes))
    }

    fn host_buffer(&mut self, bytes: usize) -> Result<HostBuffer, Error> {
        self.ask(|device| device.host_buffer(bytes))
    }

    fn send(&mut self, buffer: HostBuffer, pieces: &[Piece]) -> Result<Transfer, Error> {
        self.ask(|device| device.send(buffer, pieces))
    }

    fn reclaim(&mut self, transfer: Transfer) -> Result<HostBuffer, Error> {
        self.ask(|device| device.reclaim(transfer))
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Error> {
        self.ask(|device| device.upload(to, bytes))
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Error> {
        self.ask(|device| device.download(from, bytes))
    }

    fn clear(&mut self, at: Address, bytes: usize) -> Result<(), Error> {
        self.ask(|device| device.clear(at, bytes))
    }

    fn prepare(&mut self, kernel: &'static Kernel) -> Result<(), Error> {
        self.ask(|device| device.prepare(kernel))
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), Error> {
        self.ask(|device| device.launch(launch))
    }

    fn begin_capture(&mut self) -> Result<(), Error> {
        self.ask(|device| device.begin_capture())
    }

    fn end_capture(&mut self) -> Result<Graph, Error> {
        self.ask(|device| device.end_capture())
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.ask(|device| device.replay(graph))
    }

    fn destroy(&mut self, graph: Graph) -> Result<(), Error> {
        self.ask(|device| device.destroy(graph))
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        self.ask(|device| device.synchronize())
    }
}
