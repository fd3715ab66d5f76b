//! How deep programs go into their stack, read from the object without a kernel.
//!
//! Owns the rule. A kernel adds up what the functions of a chain of calls use, and refuses a program with a chain of
//! more than 512 bytes. Which number it adds for a function has changed:
//!
//! | kernel | a function counts as |
//! |---|---|
//! | before 6.9, or without a JIT compiler | its bytes up to a multiple of 32, at least 32 |
//! | since 6.9 | its bytes up to a multiple of 16, and nothing if it uses none |
//!
//! So the older rule holds for all. Every call counts that is written in a function, also where a constant keeps the
//! program from ever coming there; but of a function that is never entered the kernel sees no use, so its number may be
//! less than ours, never more. Inlined functions count with who inlines them. Stacks of their own for functions (6.13)
//! are for tracing programs, not for these. Tail calls, of which these have none, would leave 256 bytes to callers. A
//! chain may have no more than 8 functions.
//!
//! What a function uses is told by the lowest address that it makes of its frame pointer, r10: the compiler gives each
//! variable its place there.

use anyhow::Context;
use aya_obj::generated::bpf_insn;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Most bytes of a chain of calls.
pub const LIMIT: u32 = 512;
/// Most functions in it.
pub const FRAMES: usize = 8;
/// Less than this left: the next variable may be one too many.
pub const SCANT: u32 = 32;
/// Each function counts as a multiple of this.
const STEP: u32 = 32;

/// The deepest chain of calls of a program, the program itself first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Functions by name, with the bytes that each uses.
    pub functions: Vec<(String, u32)>,
    /// What the kernel counts for all of them, in bytes.
    pub depth: u32,
}

impl Chain {
    /// Bytes that are left.
    pub fn slack(&self) -> u32 {
        LIMIT.saturating_sub(self.depth)
    }

    /// Whether every kernel takes it.
    pub fn is_taken(&self) -> bool {
        self.depth <= LIMIT && self.functions.len() <= FRAMES
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let functions = self.functions.iter().map(|(name, bytes)| format!("{name} {bytes}"));
        write!(f, "{}", functions.collect::<Vec<_>>().join(" > "))
    }
}

/// What the kernel counts for a function that uses as many bytes.
pub fn counted(bytes: u32) -> u32 {
    bytes.max(1).next_multiple_of(STEP)
}

/// The deepest chain of each program of an object.
pub fn deepest(object: &[u8]) -> anyhow::Result<BTreeMap<String, Chain>> {
    let mut object = aya_obj::Object::parse(object).context("read the object")?;
    let names: BTreeMap<u32, String> = object
        .functions
        .values()
        .filter_map(|f| Some((f.func_info.func_info.first()?.type_id, f.name.clone())))
        .collect();
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&text).context("link the functions")?;
    let mut chains = BTreeMap::new();
    for (name, program) in &object.programs {
        let linked = object.functions.get(&program.function_key()).with_context(|| format!("no code of {name}"))?;
        let mut starts: BTreeMap<usize, String> =
            linked.func_info.func_info.iter().map(|i| (i.insn_off as usize, named(&names, i.type_id))).collect();
        starts.insert(0, name.clone());
        let functions = functions(&linked.instructions, &starts).with_context(|| format!("read {name}"))?;
        chains.insert(name.clone(), chain(&functions, 0, &mut Vec::new())?);
    }
    Ok(chains)
}

fn named(names: &BTreeMap<u32, String>, id: u32) -> String {
    names.get(&id).cloned().unwrap_or_else(|| format!("function {id}"))
}

struct Function {
    name: String,
    bytes: u32,
    /// Where the functions that it calls start.
    calls: BTreeSet<usize>,
}

/// The functions of a linked program by where they start.
fn functions(code: &[bpf_insn], starts: &BTreeMap<usize, String>) -> anyhow::Result<BTreeMap<usize, Function>> {
    let ends = starts.keys().skip(1).copied().chain([code.len()]);
    let mut functions = BTreeMap::new();
    for ((start, name), end) in starts.iter().zip(ends) {
        let body = code.get(*start..end).context("a function beyond the code")?;
        let calls = called(body, *start);
        anyhow::ensure!(calls.iter().all(|to| starts.contains_key(to)), "{name} calls into the middle of a function");
        functions.insert(*start, Function { name: name.clone(), bytes: used(body), calls });
    }
    Ok(functions)
}

const CLASS: u8 = 0x07;
const LOAD: u8 = 0x01;
const STORE_NUMBER: u8 = 0x02;
const STORE: u8 = 0x03;
const CALL: u8 = 0x85;
/// In a call's source register: the function is one of the program.
const OF_THE_PROGRAM: u8 = 1;
const LOAD_64: u8 = 0x18;
/// In the source register of such a load: the address of a function, which runs on top of this one's stack.
const ADDRESS_OF_FUNCTION: u8 = 4;
const MOVE: u8 = 0xbf;
const ADD_NUMBER: u8 = 0x07;
const FRAME: u8 = 10;

fn called(body: &[bpf_insn], start: usize) -> BTreeSet<usize> {
    let calls = body.iter().enumerate().filter(|(_, i)| {
        (i.code == CALL && i.src_reg() == OF_THE_PROGRAM) || (i.code == LOAD_64 && i.src_reg() == ADDRESS_OF_FUNCTION)
    });
    calls.filter_map(|(at, i)| usize::try_from((start + at + 1) as i64 + i64::from(i.imm)).ok()).collect()
}

/// Bytes below the frame pointer that a function speaks of.
fn used(body: &[bpf_insn]) -> u32 {
    let mut lowest = 0i64;
    // Registers that are the frame pointer and so much, in the order of the code: compilers add right after they copy.
    let mut distance: BTreeMap<u8, i64> = BTreeMap::from([(FRAME, 0)]);
    for instruction in body {
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let mut touch = |register: u8, more: i64| {
            if let Some(base) = distance.get(&register) {
                lowest = lowest.min(base + more);
            }
        };
        match instruction.code & CLASS {
            LOAD => touch(from, instruction.off.into()),
            STORE | STORE_NUMBER => touch(to, instruction.off.into()),
            _ => {}
        }
        match instruction.code {
            MOVE => match distance.get(&from).copied() {
                Some(base) => {
                    distance.insert(to, base);
                }
                None => {
                    distance.remove(&to);
                }
            },
            ADD_NUMBER => {
                if let Some(base) = distance.get_mut(&to) {
                    *base += i64::from(instruction.imm);
                    lowest = lowest.min(*base);
                }
            }
            CALL => distance.retain(|register, _| *register > 5),
            code if !matches!(code & CLASS, STORE | STORE_NUMBER | 0x05 | 0x06) => {
                distance.remove(&to);
            }
            _ => {}
        }
    }
    u32::try_from(-lowest).unwrap_or(u32::MAX)
}

/// The deepest chain from a function down. `above`: the functions that led here.
fn chain(functions: &BTreeMap<usize, Function>, at: usize, above: &mut Vec<usize>) -> anyhow::Result<Chain> {
    let function = functions.get(&at).context("a call of nothing")?;
    anyhow::ensure!(!above.contains(&at), "{} calls itself", function.name);
    above.push(at);
    let mut below = Chain { functions: Vec::new(), depth: 0 };
    let mut frames = 0;
    for called in &function.calls {
        let found = chain(functions, *called, above)?;
        frames = frames.max(found.functions.len());
        if found.depth > below.depth {
            below = found;
        }
    }
    above.pop();
    anyhow::ensure!(frames < FRAMES, "more than {FRAMES} functions from {} on", function.name);
    below.functions.insert(0, (function.name.clone(), function.bytes));
    below.depth += counted(function.bytes);
    Ok(below)
}

/// Whether this kernel takes a chain of functions that use so many bytes each, multiples of 8, the caller first (root).
pub fn is_taken_here(chain: &[u32]) -> anyhow::Result<bool> {
    const BPF_PROG_LOAD: i64 = 5;
    const SCHED_CLS: u32 = 3;
    const STORE_0: u8 = 0x7a;
    const SET: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    // The head of `union bpf_attr` for BPF_PROG_LOAD; no log is asked for.
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
    }
    let mut code: Vec<[u8; 8]> = Vec::new();
    let mut op = |operation: u8, registers: u8, off: i16, imm: i32| {
        let ([o0, o1], [i0, i1, i2, i3]) = (off.to_ne_bytes(), imm.to_ne_bytes());
        code.push([operation, registers, o0, o1, i0, i1, i2, i3]);
    };
    for (n, bytes) in chain.iter().enumerate() {
        if *bytes > 0 {
            op(STORE_0, FRAME, -i16::try_from(*bytes)?, 0);
        }
        // Behind this call stand two instructions of its own function, then the next one.
        if n + 1 < chain.len() {
            op(CALL, OF_THE_PROGRAM << 4, 0, 2);
        }
        op(SET, 0, 0, 0);
        op(EXIT, 0, 0, 0);
    }
    let attributes = Attributes {
        kind: SCHED_CLS,
        count: u32::try_from(code.len())?,
        instructions: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
    };
    // SAFETY: the kernel reads the attributes, the instructions and the text that they point to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Attributes>()) };
    if fd >= 0 {
        // SAFETY: nobody else knows the new descriptor.
        drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(i32::try_from(fd)?) });
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EACCES | libc::E2BIG) => Ok(false),
        _ => Err(error).context("load a program"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
        bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(to, from), off, imm }
    }

    #[test]
    fn a_function_uses_what_it_stores_loads_and_points_to() {
        assert_eq!(used(&[op(0x95, 0, 0, 0, 0)]), 0);
        assert_eq!(used(&[op(0x7b, FRAME, 1, -24, 0)]), 24, "stores");
        assert_eq!(used(&[op(0x79, 1, FRAME, -40, 0)]), 40, "loads");
        assert_eq!(used(&[op(MOVE, 2, FRAME, 0, 0), op(ADD_NUMBER, 2, 0, 0, -56)]), 56, "gives away");
        let through = [op(MOVE, 6, FRAME, 0, 0), op(ADD_NUMBER, 6, 0, 0, -16), op(0x7b, 6, 1, -8, 0)];
        assert_eq!(used(&through), 24, "through a copy");
        let other = [op(MOVE, 6, FRAME, 0, 0), op(MOVE, 6, 1, 0, 0), op(ADD_NUMBER, 6, 0, 0, -64)];
        assert_eq!(used(&other), 0, "what is no longer the frame pointer");
    }

    #[test]
    fn the_deepest_chain_is_not_the_longest() {
        let function = |name: &str, bytes, calls: &[usize]| Function {
            name: name.to_owned(),
            bytes,
            calls: calls.iter().copied().collect(),
        };
        let functions = BTreeMap::from([
            (0, function("main", 33, &[1, 3])),
            (1, function("a", 0, &[2])),
            (2, function("b", 32, &[])),
            (3, function("c", 97, &[])),
        ]);
        let found = chain(&functions, 0, &mut Vec::new()).unwrap();
        assert_eq!(found.to_string(), "main 33 > c 97");
        assert_eq!((found.depth, found.slack(), found.is_taken()), (192, 320, true));
    }

    /// Linux 6.1 loads no program that is deeper, and newer kernels do not tell.
    #[test]
    fn every_kernel_takes_the_programs_stacks() {
        let chains = deepest(crate::CONTAINER).unwrap();
        for name in crate::names::program::ALL {
            let chain = chains.get(name).unwrap_or_else(|| panic!("{name} is not in the object"));
            println!("{name}: {} of {LIMIT}, {chain}", chain.depth);
            assert!(chain.is_taken(), "{name}: {} of {LIMIT} bytes of stack: {chain}", chain.depth);
        }
    }
}
