//! Single instructions to operations.

use super::code::{
    Constant, Element, Function, Op, Place, Product, Reduction, Reg, Shuffle, Update, Vote, one, three, two,
};
use super::integer::{mask, saturate, value};
use super::lower::{Lowering, Symbol, special};
use super::memory::{LOCAL_WINDOW, SHARED_WINDOW};
use super::number::{self, BF16, F16, Format, Round};
use super::opcode::Opcode;
use super::parse::{Instruction, Operand};
use super::types::{Space, Type};
use super::{convert, float, integer};

type Done = Result<(), String>;

/// Operands of an instruction, as many as it takes.
fn exactly<const N: usize>(operands: &[Operand]) -> Result<&[Operand; N], String> {
    operands.try_into().map_err(|_| format!("{N} operands expected"))
}

fn cache_hint(part: &str) -> bool {
    part.starts_with("L1::")
        || part.starts_with("L2::")
        || matches!(part, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt")
}

impl Lowering<'_> {
    pub fn translate(&mut self, instruction: &Instruction) -> Done {
        let mut opcode = Opcode::new(&instruction.opcode);
        let (op, operands) = (&mut opcode, &instruction.operands[..]);
        match op.name {
            "ld" | "ldu" => self.load(op, operands),
            "st" => self.store(op, operands),
            "atom" | "red" => self.atomic(op, operands),
            "cp" => self.copy(op, operands),
            "bra" => {
                op.take("uni");
                op.finish()?;
                let [Operand::Name(name, 0)] = operands else { return Err("a label expected".into()) };
                let Some(Symbol::Label(label)) = self.find(name) else {
                    return Err(format!("no label `{name}`"));
                };
                self.push(Op::Branch(label));
                Ok(())
            }
            "brx" => {
                op.take("idx");
                op.take("uni");
                op.finish()?;
                let [index, Operand::Name(name, 0)] = operands else { return Err("a table expected".into()) };
                let index = self.source(index)?;
                let Some(Symbol::Targets(targets)) = self.find(name) else {
                    return Err(format!("no table `{name}`"));
                };
                self.push(Op::BranchTable { index, targets });
                Ok(())
            }
            "call" => self.call(op, operands),
            "ret" => {
                op.take("uni");
                op.finish()?;
                self.leave();
                Ok(())
            }
            "exit" => self.emit(Op::Exit),
            "trap" | "brkpt" => self.emit(Op::Trap("the kernel trapped".into())),
            "bar" | "barrier" => self.barrier(op, operands),
            "shfl" | "vote" | "redux" | "match" | "activemask" | "elect" => self.collective(op, operands),
            "ldmatrix" | "stmatrix" | "movmatrix" => self.matrix(op, operands),
            "mma" => self.product(op, operands),
            "membar" | "fence" | "prefetch" | "prefetchu" | "griddepcontrol" | "nanosleep" | "discard"
            | "applypriority" => self.emit(Op::Nothing),
            "createpolicy" => {
                let d = self.target(operands.first().ok_or("a register expected")?)?;
                let zero = self.constant(Constant::Bits(0));
                self.copy_register(d, zero, 64);
                Ok(())
            }
            "cvta" => self.convert_address(op, operands),
            "isspacep" => {
                let space = op.take_some(Space::named).ok_or("a space expected")?;
                let [d, s] = exactly(operands)?;
                let (d, s) = (self.target(d)?, self.source(s)?);
                self.push(Op::IsSpace { space, d, s });
                Ok(())
            }
            "setp" => self.set_predicate(op, operands),
            "mov" => self.mov(op, operands),
            "add" | "sub" | "mad" if op.has("cc") => self.with_carry(op, operands, false),
            "addc" | "subc" | "madc" => self.with_carry(op, operands, true),
            _ => self.arithmetic(op, operands),
        }
    }

    /// The register that holds an operand's value.
    fn source(&mut self, operand: &Operand) -> Result<Reg, String> {
        match operand {
            Operand::Number(bits) => Ok(self.constant(Constant::Bits(*bits))),
            Operand::Not(inner) => {
                let s = self.source(inner)?;
                let d = self.register();
                self.apply(one(|a| a & 1 ^ 1), d, &[s]);
                Ok(d)
            }
            Operand::Name(name, offset) => match self.find(name) {
                Some(Symbol::Register { reg, .. }) if *offset == 0 => Ok(reg),
                Some(Symbol::Variable { address, .. }) => Ok(self.constant(shifted(address, *offset))),
                Some(_) => Err(format!("`{name}` is no value")),
                None if *offset == 0 => match special(name) {
                    Some(constant) => Ok(self.constant(constant)),
                    None => Err(format!("no register `{name}`")),
                },
                None => Err(format!("no variable `{name}`")),
            },
            other => Err(format!("{other:?} is no value")),
        }
    }

    /// The register that takes a result; `_` is one that nobody reads.
    fn target(&mut self, operand: &Operand) -> Result<Reg, String> {
        Ok(self.target_bits(operand)?.0)
    }

    fn target_bits(&mut self, operand: &Operand) -> Result<(Reg, u32), String> {
        let Operand::Name(name, 0) = operand else { return Err(format!("{operand:?} is no register")) };
        if name == "_" {
            return Ok((self.register(), 64));
        }
        match self.find(name) {
            Some(Symbol::Register { reg, bits }) => Ok((reg, bits)),
            _ => Err(format!("no register `{name}`")),
        }
    }

    /// One register, or those of a vector.
    fn sources(&mut self, operand: &Operand) -> Result<Vec<Reg>, String> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.source(part)).collect(),
            single => Ok(vec![self.source(single)?]),
        }
    }

    fn targets(&mut self, operand: &Operand) -> Result<Vec<(Reg, u32)>, String> {
        match operand {
            Operand::Vector(parts) => parts.iter().map(|part| self.target_bits(part)).collect(),
            single => Ok(vec![self.target_bits(single)?]),
        }
    }

    fn apply(&mut self, function: Function, d: Reg, sources: &[Reg]) {
        let mut s = [0; 4];
        s[..sources.len()].copy_from_slice(sources);
        self.push(Op::Pure { apply: function.apply, d, s });
    }

    fn copy_register(&mut self, d: Reg, s: Reg, bits: u32) {
        self.apply(one(move |a| a & mask(bits)), d, &[s]);
    }

    fn arithmetic(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, sources @ ..] = operands else { return Err("operands expected".into()) };
        let (d, bits) = self.target_bits(target)?;
        let function = match convert::find(op, bits)? {
            Some(function) => Some(function),
            None => match float::find(op)? {
                Some(function) => Some(function),
                None => integer::find(op)?,
            },
        };
        let Some(function) = function else { return Err("no such instruction".into()) };
        op.finish()?;
        if sources.len() != function.operands {
            return Err(format!("{} operands expected", function.operands + 1));
        }
        let sources = sources.iter().map(|s| self.source(s)).collect::<Result<Vec<_>, _>>()?;
        self.apply(function, d, &sources);
        Ok(())
    }

    fn set_predicate(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, a, b, third @ ..] = operands else { return Err("operands expected".into()) };
        let combine: Option<fn(u64, u64) -> u64> = op.clone().take_some(|part| match part {
            "and" => Some((|t, c| t & c) as fn(u64, u64) -> u64),
            "or" => Some(|t, c| t | c),
            "xor" => Some(|t, c| t ^ c),
            _ => None,
        });
        let Some(function) = convert::find(op, 1)? else { return Err("no such instruction".into()) };
        op.finish()?;
        let sources = [self.source(a)?, self.source(b)?];
        let (p, q) = match target {
            Operand::Pair(p, q) => (self.target(p)?, Some(self.target(q)?)),
            single => (self.target(single)?, None),
        };
        match (combine, third) {
            (None, []) if q.is_none() => self.apply(function, p, &sources),
            (None, []) => {
                let holds = self.register();
                self.apply(function, holds, &sources);
                let holds_not = self.constant(Constant::Bits(1));
                self.predicates(|t, c| t & c, holds, holds_not, p, q);
            }
            (Some(combine), [third]) => {
                let third = self.source(third)?;
                let holds = self.register();
                self.apply(function, holds, &sources);
                self.predicates(combine, holds, third, p, q);
            }
            _ => return Err("a predicate and how to combine it expected".into()),
        }
        Ok(())
    }

    /// `p = holds op third` and `q = !holds op third`, where either may be the guard or the third predicate.
    fn predicates(&mut self, combine: fn(u64, u64) -> u64, holds: Reg, third: Reg, p: Reg, q: Option<Reg>) {
        let other = self.register();
        if q.is_some() {
            self.apply(two(move |t, c| combine(t ^ 1, c) & 1), other, &[holds, third]);
        }
        if let (Some(_), Some((reg, negated))) = (q, self.guard) {
            let guard = self.register();
            self.guard = None;
            self.copy_register(guard, reg, 1);
            self.guard = Some((guard, negated));
        }
        self.apply(two(move |t, c| combine(t, c) & 1), p, &[holds, third]);
        if let Some(q) = q {
            self.copy_register(q, other, 1);
        }
    }

    fn mov(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, value] = exactly(operands)?;
        match (target, value) {
            (Operand::Vector(parts), _) => {
                op.ty()?;
                op.finish()?;
                let s = self.source(value)?;
                let targets =
                    parts.iter().map(|part| self.target_bits(part)).collect::<Result<Vec<_>, _>>()?;
                // a part may go where the whole came from
                let whole = self.register();
                self.copy_register(whole, s, 64);
                let bits = targets.iter().map(|&(_, bits)| bits).min().unwrap_or(0);
                for (place, &(d, _)) in targets.iter().enumerate() {
                    let down = bits * place as u32;
                    self.apply(one(move |a| a >> down & mask(bits)), d, &[whole]);
                }
                Ok(())
            }
            (_, Operand::Vector(parts)) => {
                let bits = op.ty()?.bits() / parts.len().max(1) as u32;
                op.finish()?;
                let d = self.target(target)?;
                let parts = parts.iter().map(|part| self.source(part)).collect::<Result<Vec<_>, _>>()?;
                match parts[..] {
                    [a, b] => {
                        self.apply(two(move |a, b| a & mask(bits) | (b & mask(bits)) << bits), d, &[a, b])
                    }
                    [a, b, c, e] => {
                        let part = move |x: u64, place: u32| (x & mask(bits)) << (bits * place);
                        let all = move |a, b, c, e| part(a, 0) | part(b, 1) | part(c, 2) | part(e, 3);
                        self.apply(super::code::four(all), d, &[a, b, c, e]);
                    }
                    _ => return Err("two or four parts expected".into()),
                }
                Ok(())
            }
            (_, Operand::Name(name, 0)) if name.starts_with("%clock") || name.starts_with("%globaltimer") => {
                let bits = op.ty()?.bits();
                op.finish()?;
                let d = self.target(target)?;
                self.push(Op::Clock { d, bits });
                Ok(())
            }
            _ => self.arithmetic(op, operands),
        }
    }

    fn convert_address(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let [target, address] = exactly(operands)?;
        let to = op.take("to");
        let space = op.take_some(Space::named).ok_or("a space expected")?;
        let bits = op.ty()?.bits();
        op.finish()?;
        let (d, s) = (self.target(target)?, self.source(address)?);
        let window = match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            _ => 0,
        };
        self.apply(
            match to {
                true => one(move |a| a.wrapping_sub(window) & mask(bits)),
                false => one(move |a| a.wrapping_add(window) & mask(bits)),
            },
            d,
            &[s],
        );
        Ok(())
    }

    /// Sums with the carry of the sum before: all of a thread's carries are one register.
    fn with_carry(&mut self, op: &mut Opcode<'_>, operands: &[Operand], reads: bool) -> Done {
        let sets = op.take("cc");
        let (low, high) = (op.take("lo"), op.take("hi"));
        let ty = op.ty()?;
        op.finish()?;
        let bits = ty.bits();
        let [target, sources @ ..] = operands else { return Err("operands expected".into()) };
        let d = self.target(target)?;
        let mut s = sources.iter().map(|s| self.source(s)).collect::<Result<Vec<_>, _>>()?;
        let product = op.name.starts_with("mad");
        if s.len() != if product { 3 } else { 2 } {
            return Err("another number of operands expected".into());
        }
        if product {
            if low == high {
                return Err("`.lo` or `.hi` expected".into());
            }
            let times = self.register();
            let part = move |a, b| {
                ((value(a, ty) * value(b, ty)) >> if high { bits } else { 0 }) as u64 & mask(bits)
            };
            self.apply(two(part), times, &[s[0], s[1]]);
            s = vec![times, s[2]];
        }
        let carry = self.carry();
        let before = if reads { carry } else { self.constant(Constant::Bits(0)) };
        let less = op.name.starts_with("sub");
        let total = move |a: u64, b: u64, c: u64| {
            let (a, b, c) = (i128::from(a & mask(bits)), i128::from(b & mask(bits)), i128::from(c));
            if less { a - b - c } else { a + b + c }
        };
        let sum = self.register();
        self.apply(three(move |a, b, c| total(a, b, c) as u64 & mask(bits)), sum, &[s[0], s[1], before]);
        if sets {
            let lost = move |a, b, c| u64::from(total(a, b, c) >> bits != 0);
            self.apply(three(lost), carry, &[s[0], s[1], before]);
        }
        self.copy_register(d, sum, bits);
        Ok(())
    }

    /// Where an operand in brackets points; `space` unless a variable says better.
    fn place(&mut self, operand: &Operand, space: Space, strong: bool) -> Result<Place, String> {
        let Operand::Address(base, offset) = operand else { return Err("an address expected".into()) };
        if let Operand::Name(name, _) = &**base
            && let Some(Symbol::Variable { space, address }) = self.find(name)
        {
            let base = self.constant(shifted(address, *offset));
            return Ok(Place { space, base, offset: 0, strong });
        }
        Ok(Place { space, base: self.source(base)?, offset: *offset, strong })
    }

    /// The space, strength and width of an access, and how many elements it has.
    fn access(&mut self, op: &mut Opcode<'_>) -> Result<(Space, bool, Type, usize), String> {
        let space = op.take_some(Space::named).unwrap_or(Space::Generic);
        let mut strong = false;
        op.ignore(|part| {
            let ordered = matches!(part, "volatile" | "relaxed" | "acquire" | "release" | "acq_rel" | "mmio");
            strong |= ordered;
            ordered
                || matches!(part, "weak" | "cta" | "gpu" | "sys" | "cluster" | "nc" | "unified")
                || cache_hint(part)
        });
        let count =
            op.take_some(|part| ["", "", "v2", "", "v4", "", "", "", "v8"].iter().position(|&v| v == part));
        let ty = op.ty()?;
        op.finish()?;
        if ty == Type::B128 {
            return Err("128 bits in one register are not known here".into());
        }
        if matches!(space, Space::Shared | Space::Generic) {
            self.granule = self.granule.min(ty.bytes());
        }
        Ok((space, strong, ty, count.unwrap_or(1)))
    }

    fn load(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let (space, strong, ty, count) = self.access(op)?;
        let [target, address, _policy @ ..] = operands else { return Err("operands expected".into()) };
        let at = self.place(address, space, strong)?;
        let targets = self.targets(target)?;
        if targets.len() != count {
            return Err(format!("{count} registers expected"));
        }
        let extend = targets.iter().map(|&(_, bits)| bits).max().filter(|_| ty.signed());
        let d = targets.into_iter().map(|(d, _)| d).collect();
        self.push(Op::Load { at, bytes: ty.bytes(), extend, d });
        Ok(())
    }

    fn store(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let (space, strong, ty, count) = self.access(op)?;
        let [address, value, _policy @ ..] = operands else { return Err("operands expected".into()) };
        let at = self.place(address, space, strong)?;
        let s = self.sources(value)?;
        if s.len() != count {
            return Err(format!("{count} registers expected"));
        }
        self.push(Op::Store { at, bytes: ty.bytes(), s });
        Ok(())
    }

    fn atomic(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let names = ["add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"];
        let operation =
            op.take_some(|part| names.into_iter().find(|&name| name == part)).ok_or("no operation")?;
        op.take("noftz");
        let red = op.name == "red";
        let (space, _, ty, _) = self.access(op)?;
        let (target, operands) = match (red, operands) {
            (true, operands) => (None, operands),
            (false, [target, operands @ ..]) => (Some(self.target(target)?), operands),
            _ => return Err("operands expected".into()),
        };
        let [address, b, third @ ..] = operands else { return Err("operands expected".into()) };
        let at = self.place(address, space, true)?;
        let b = self.source(b)?;
        let c = match (operation, third.first()) {
            ("cas", Some(third)) => self.source(third)?,
            ("cas", None) => return Err("a value to store expected".into()),
            _ => b,
        };
        let update = update(operation, ty)?;
        self.push(Op::Atomic { at, bytes: ty.bytes(), update, d: target, s: [b, c] });
        Ok(())
    }

    fn copy(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        if !op.take("async") {
            return Err("only `cp.async` is known here".into());
        }
        if op.take("commit_group") {
            op.finish()?;
            return self.emit(Op::CopyCommit);
        }
        if op.take("wait_all") {
            op.finish()?;
            self.push(Op::CopyCommit);
            return self.emit(Op::CopyWait(0));
        }
        if op.take("wait_group") {
            op.finish()?;
            let [Operand::Number(groups)] = operands else {
                return Err("a number of groups expected".into());
            };
            return self.emit(Op::CopyWait(*groups as usize));
        }
        let (whole, to_shared) = (op.next_is("cg"), op.take("shared") || op.take("shared::cta"));
        op.ignore(cache_hint);
        if !to_shared || !op.take("global") {
            return Err("a copy from global to shared memory expected".into());
        }
        op.finish()?;
        let [to, from, Operand::Number(bytes), rest @ ..] = operands else {
            return Err("operands expected".into());
        };
        if !(*bytes == 16 || !whole && matches!(*bytes, 4 | 8)) {
            return Err(format!("{bytes} bytes cannot be copied"));
        }
        self.granule = self.granule.min(*bytes);
        let (to, from) = (self.place(to, Space::Shared, false)?, self.place(from, Space::Global, false)?);
        let size = rest.first().map(|size| self.source(size)).transpose()?;
        self.push(Op::CopyAsync { to, from, bytes: *bytes, size });
        Ok(())
    }

    fn call(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        op.take("uni");
        op.finish()?;
        let (results, rest) = match operands {
            [Operand::List(results), rest @ ..] => (&results[..], rest),
            rest => (&[][..], rest),
        };
        let (name, params) = match rest {
            [Operand::Name(name, 0)] => (name, &[][..]),
            [Operand::Name(name, 0), Operand::List(params)] => (name, &params[..]),
            _ => return Err("calls of functions by name alone are known here".into()),
        };
        let mut variables = |list: &[Operand]| {
            let variable = |operand: &Operand| match operand {
                Operand::Name(name, 0) => match self.find(name) {
                    Some(symbol @ Symbol::Variable { .. }) => Ok(symbol),
                    _ => Err(format!("`{name}` is no parameter")),
                },
                other => Err(format!("{other:?} is no parameter")),
            };
            list.iter().map(variable).collect::<Result<Vec<_>, _>>()
        };
        let (results, params) = (variables(results)?, variables(params)?);
        self.inline(name, results, params)
    }

    fn barrier(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        if op.take("warp") {
            op.take("sync");
            op.finish()?;
            let mask = self.source(&exactly::<1>(operands)?[0])?;
            return self.emit(Op::WarpSync { mask });
        }
        op.take("cta");
        op.take("aligned");
        let (sync, arrive, red) = (op.take("sync"), op.take("arrive"), op.take("red"));
        if !red {
            op.finish()?;
            let (id, threads) = match operands {
                [id] if sync => (self.source(id)?, None),
                [id, threads] if sync || arrive => (self.source(id)?, Some(self.source(threads)?)),
                _ => return Err("a barrier and a number of threads expected".into()),
            };
            return self.emit(Op::Barrier { id, threads, wait: sync, reduce: None });
        }
        let reduction = op.take_some(|part| match part {
            "popc" => Some(Reduction::Count),
            "and" => Some(Reduction::And),
            "or" => Some(Reduction::Or),
            _ => None,
        });
        let Some(reduction) = reduction else { return Err("a reduction expected".into()) };
        op.ty()?;
        op.finish()?;
        let (target, id, threads, p) = match operands {
            [target, id, p] => (target, id, None, p),
            [target, id, threads, p] => (target, id, Some(threads), p),
            _ => return Err("operands expected".into()),
        };
        let (d, id, p) = (self.target(target)?, self.source(id)?, self.source(p)?);
        let threads = threads.map(|threads| self.source(threads)).transpose()?;
        self.push(Op::Barrier { id, threads, wait: true, reduce: Some((reduction, d, p)) });
        Ok(())
    }

    fn collective(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        op.take("sync");
        match op.name {
            "activemask" => {
                op.ty()?;
                op.finish()?;
                let d = self.target(&exactly::<1>(operands)?[0])?;
                self.push(Op::ActiveMask { d });
            }
            "shfl" => {
                let mode = op.take_some(|part| match part {
                    "up" => Some(Shuffle::Up),
                    "down" => Some(Shuffle::Down),
                    "bfly" => Some(Shuffle::Butterfly),
                    "idx" => Some(Shuffle::Index),
                    _ => None,
                });
                let Some(mode) = mode else { return Err("a mode expected".into()) };
                op.ty()?;
                op.finish()?;
                let [target, a, b, c, mask] = exactly(operands)?;
                let (d, p) = self.two_targets(target)?;
                let s = [self.source(a)?, self.source(b)?, self.source(c)?];
                let mask = self.source(mask)?;
                self.push(Op::Shuffle { mode, d, p, s, mask });
            }
            "vote" => {
                let vote = op.take_some(|part| match part {
                    "all" => Some(Vote::All),
                    "any" => Some(Vote::Any),
                    "uni" => Some(Vote::Uniform),
                    "ballot" => Some(Vote::Ballot),
                    _ => None,
                });
                let Some(vote) = vote else { return Err("a mode expected".into()) };
                op.ty()?;
                op.finish()?;
                let [target, p, mask] = exactly(operands)?;
                let (d, p, mask) = (self.target(target)?, self.source(p)?, self.source(mask)?);
                self.push(Op::Vote { vote, d, p, mask });
            }
            "redux" => {
                let names = ["add", "min", "max", "and", "or", "xor"];
                let operation =
                    op.take_some(|part| names.into_iter().find(|&n| n == part)).ok_or("no operation")?;
                let fold = update(operation, op.ty()?)?;
                op.finish()?;
                let [target, s, mask] = exactly(operands)?;
                let (d, s, mask) = (self.target(target)?, self.source(s)?, self.source(mask)?);
                self.push(Op::Reduce { fold, d, s, mask });
            }
            "match" => {
                let (all, any) = (op.take("all"), op.take("any"));
                let bits = op.ty()?.bits();
                op.finish()?;
                if all == any {
                    return Err("`.all` or `.any` expected".into());
                }
                let [target, s, mask] = exactly(operands)?;
                let (d, p) = self.two_targets(target)?;
                let (s, mask) = (self.source(s)?, self.source(mask)?);
                self.push(Op::Match { all, bits, d, p, s, mask });
            }
            _ => return Err("no such instruction".into()),
        }
        Ok(())
    }

    /// `d` or `d|p`.
    fn two_targets(&mut self, operand: &Operand) -> Result<(Reg, Option<Reg>), String> {
        match operand {
            Operand::Pair(d, p) => Ok((self.target(d)?, Some(self.target(p)?))),
            single => Ok((self.target(single)?, None)),
        }
    }

    fn matrix(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let complete = op.take("sync") & op.take("aligned") & op.take("m8n8");
        let transposed = op.take("trans");
        let count = op.take_some(|part| match part {
            "x1" => Some(1),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        op.take("shared");
        op.take("shared::cta");
        let sixteen = op.take("b16");
        op.finish()?;
        if !complete || !sixteen {
            return Err("matrices of 8 x 8 halves alone are known here".into());
        }
        let [first, second] = exactly(operands)?;
        if op.name == "movmatrix" {
            let (d, s) = (self.target(first)?, self.source(second)?);
            return self.emit(Op::TransposeMatrix { d, s });
        }
        self.granule = self.granule.min(4);
        let stores = op.name == "stmatrix";
        let (address, registers) = if stores { (first, second) } else { (second, first) };
        let at = self.place(address, Space::Shared, false)?;
        let registers = match stores {
            true => self.sources(registers)?,
            false => self.targets(registers)?.into_iter().map(|(d, _)| d).collect(),
        };
        if Some(registers.len()) != count {
            return Err("another number of registers expected".into());
        }
        self.push(match stores {
            true => Op::StoreMatrix { at, transposed, s: registers },
            false => Op::LoadMatrix { at, transposed, d: registers },
        });
        Ok(())
    }

    fn product(&mut self, op: &mut Opcode<'_>, operands: &[Operand]) -> Done {
        let layout = op.take("sync") & op.take("aligned") & op.take("row") & op.take("col");
        let shape = op.take_some(|part| match part {
            "m16n8k4" => Some((16, 4)),
            "m16n8k8" => Some((16, 8)),
            "m16n8k16" => Some((16, 16)),
            "m16n8k32" => Some((16, 32)),
            "m8n8k16" => Some((8, 16)),
            _ => None,
        });
        let (Some((m, k)), true) = (shape, layout) else {
            return Err("a shape that is not known here".into());
        };
        let clamp = op.take("satfinite");
        let types = [op.ty()?, op.ty()?, op.ty()?, op.ty()?];
        op.finish()?;
        let element = |ty| {
            Ok(match ty {
                Type::F16 => Element::F16,
                Type::Bf16 => Element::Bf16,
                Type::Tf32 => Element::Tf32,
                Type::S8 => Element::S8,
                Type::U8 => Element::U8,
                _ => return Err("elements of a type that is not known here".to_owned()),
            })
        };
        let (left, right) = (element(types[1])?, element(types[2])?);
        let integers = matches!(left, Element::S8 | Element::U8);
        let sums = if integers { Type::S32 } else { Type::F32 };
        let half_sums = types[0] == Type::F16 && left == Element::F16;
        let right_sums = types[0] == types[3] && (types[0] == sums || half_sums);
        if !right_sums || integers != matches!(right, Element::S8 | Element::U8) || !integers && left != right
        {
            return Err("types that do not go together".into());
        }
        let [d, a, b, c] = exactly(operands)?;
        let d: Vec<_> = self.targets(d)?.into_iter().map(|(d, _)| d).collect();
        let (a, b, c) = (self.sources(a)?, self.sources(b)?, self.sources(c)?);
        let of_words = |rows: usize, columns: usize, bits: usize| rows * columns * bits / 32 / 32;
        let sum_words = of_words(m, 8, if half_sums { 16 } else { 32 });
        let sizes = [sum_words, of_words(m, k, left.bits()), of_words(k, 8, right.bits()), sum_words];
        if [d.len(), a.len(), b.len(), c.len()] != sizes {
            return Err("another number of registers expected".into());
        }
        self.push(Op::Product(Box::new(Product { m, k, left, right, half_sums, clamp, d, a, b, c })));
        Ok(())
    }
}

/// The constant, `offset` bytes further.
fn shifted(constant: Constant, offset: i64) -> Constant {
    match constant {
        Constant::Bits(bits) => Constant::Bits(bits.wrapping_add_signed(offset)),
        Constant::Variable(index, at) => Constant::Variable(index, at.wrapping_add(offset)),
        Constant::DynamicShared(at) => Constant::DynamicShared(at.wrapping_add(offset)),
        Constant::Params(at) => Constant::Params(at.wrapping_add(offset)),
        special @ Constant::Special(..) => special,
    }
}

/// What an atomic operation leaves in memory, of what was there and its operands.
fn update(operation: &str, ty: Type) -> Result<Update, String> {
    let all = mask(ty.bits());
    let halves = |count, format: Format| -> Update {
        Box::new(move |old, b, _| {
            float::packed(count, |i| {
                let (x, y) = (format.widen(float::part(old, i)), format.widen(float::part(b, i)));
                format.narrow(number::fused(x, 1.0, y), Round::Nearest)
            })
        })
    };
    Ok(match (operation, ty) {
        ("add", Type::F32) => Box::new(|old, b, _| float::f32_bits(float::f32_of(old) + float::f32_of(b))),
        ("add", Type::F64) => Box::new(|old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits()),
        ("add", Type::F16) => halves(1, F16),
        ("add", Type::F16x2) => halves(2, F16),
        ("add", Type::Bf16) => halves(1, BF16),
        ("add", Type::Bf16x2) => halves(2, BF16),
        (_, ty) if ty.float() => return Err("not for floats".into()),
        ("add", _) => Box::new(move |old, b, _| old.wrapping_add(b) & all),
        ("min", _) => Box::new(move |old, b, _| saturate(value(old, ty).min(value(b, ty)), ty)),
        ("max", _) => Box::new(move |old, b, _| saturate(value(old, ty).max(value(b, ty)), ty)),
        ("and", _) => Box::new(|old, b, _| old & b),
        ("or", _) => Box::new(move |old, b, _| (old | b) & all),
        ("xor", _) => Box::new(move |old, b, _| (old ^ b) & all),
        ("exch", _) => Box::new(move |_, b, _| b & all),
        ("cas", _) => Box::new(move |old, b, c| if old == b & all { c & all } else { old }),
        ("inc", _) => Box::new(move |old, b, _| if old >= b & all { 0 } else { old + 1 }),
        ("dec", _) => Box::new(move |old, b, _| if old == 0 || old > b & all { b & all } else { old - 1 }),
        _ => return Err("no such operation".into()),
    })
}
