//! What the established path of a program consists of, read from the instructions that the kernel runs.
//!
//! Owns the counting. A packet of an established flow goes from the program's start through one conntrack look-up to
//! `bpf_redirect_peer`; of all ways that the instructions leave open between these, the one with the fewest calls is it:
//! every other way has the same calls and more. Calls that the verifier or the compiler inlined are no longer there.

use anyhow::Context;
use aya::programs::SchedClassifier;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd};

/// Calls on the established path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path {
    /// Kernel functions called, in order.
    pub calls: Vec<String>,
    /// Tail calls in the whole program, wherever they are.
    pub tail_calls: usize,
}

/// One instruction of `struct bpf_insn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const CLASS_JUMP: u8 = 0x05;
const CLASS_JUMP32: u8 = 0x06;
const JUMP: u8 = 0x05;
const JUMP_LONG: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_64: u8 = 0x18;
/// The kernel's own number for a tail call once it is verified.
const TAIL_CALL: u8 = 0xf5;
const SUBPROGRAM: u8 = 1;

const LOOK_UP: &str = "htab_map_lookup_elem";
const DELIVER: &str = "bpf_redirect_peer";

impl Path {
    /// The path of a loaded program.
    pub fn of(program: &SchedClassifier) -> anyhow::Result<Path> {
        let instructions = instructions(program.fd()?.as_fd().as_raw_fd())?;
        let names = Symbols::read()?;
        let tail_calls = instructions.iter().filter(|i| i.code == TAIL_CALL).count();
        Ok(Path {
            calls: fewest_calls(&instructions, |i| names.name(i)).context("no established path found")?,
            tail_calls,
        })
    }
}

/// An instruction, and whether a look-up has been made.
type Place = (usize, bool);
/// How a place was reached: from where, and with how many calls.
type Ways = HashMap<Place, (Option<Place>, usize)>;

/// Walks from the start to a delivery that comes after a look-up, by the number of calls.
fn fewest_calls(code: &[Instruction], name: impl Fn(&Instruction) -> String) -> Option<Vec<String>> {
    let mut before: Ways = HashMap::from([((0, false), (None, 0))]);
    let mut queue = VecDeque::from([(0, false)]);
    while let Some(place) = queue.pop_front() {
        let (at, found) = place;
        let Some(instruction) = code.get(at) else { continue };
        let cost = before.get(&place)?.1;
        let call = (instruction.code == CALL).then(|| name(instruction));
        if found && call.as_deref() == Some(DELIVER) {
            return Some(calls_up_to(code, place, &before, &name));
        }
        let found = found || call.as_deref().is_some_and(|c| c.contains(LOOK_UP));
        let step = usize::from(call.is_some());
        for next in successors(instruction, at) {
            let next = (next, found);
            if before.get(&next).is_none_or(|(_, known)| *known > cost + step) {
                before.insert(next, (Some(place), cost + step));
                if step == 0 { queue.push_front(next) } else { queue.push_back(next) }
            }
        }
    }
    None
}

fn calls_up_to(
    code: &[Instruction],
    mut place: Place,
    before: &Ways,
    name: &impl Fn(&Instruction) -> String,
) -> Vec<String> {
    let mut calls = Vec::new();
    loop {
        calls.extend(code.get(place.0).filter(|i| i.code == CALL).map(name));
        match before.get(&place).and_then(|(previous, _)| *previous) {
            Some(previous) => place = previous,
            None => break,
        }
    }
    calls.reverse();
    calls
}

fn successors(instruction: &Instruction, at: usize) -> Vec<usize> {
    let class = instruction.code & 0x07;
    let jump = |offset: i32| usize::try_from(at as i64 + 1 + i64::from(offset)).into_iter();
    match instruction.code {
        EXIT => Vec::new(),
        CALL | TAIL_CALL => vec![at + 1],
        LOAD_64 => vec![at + 2],
        JUMP => jump(i32::from(instruction.offset)).collect(),
        JUMP_LONG => jump(instruction.immediate).collect(),
        _ if class == CLASS_JUMP || class == CLASS_JUMP32 => {
            jump(i32::from(instruction.offset)).chain([at + 1]).collect()
        }
        _ => vec![at + 1],
    }
}

/// The instructions of a loaded program as the kernel has rewritten them (BPF_OBJ_GET_INFO_BY_FD).
fn instructions(fd: i32) -> anyhow::Result<Vec<Instruction>> {
    const BPF_OBJ_GET_INFO_BY_FD: i64 = 15;
    // The head of `struct bpf_prog_info`: kind, id, tag, lengths, addresses.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        tag: [u8; 8],
        jited_length: u32,
        xlated_length: u32,
        jited: u64,
        xlated: u64,
    }
    #[repr(C)]
    struct Attributes {
        fd: u32,
        length: u32,
        info: u64,
    }
    let ask = |info: &mut Info| {
        let attributes =
            Attributes { fd: fd as u32, length: size_of::<Info>() as u32, info: std::ptr::from_mut(info) as u64 };
        // SAFETY: the kernel writes `length` bytes to `info`, and to `xlated` what its length allows.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attributes, size_of::<Attributes>())
        };
        if result < 0 {
            Err(std::io::Error::last_os_error()).context("read the program's instructions")
        } else {
            Ok(())
        }
    };
    let mut info = Info::default();
    ask(&mut info)?;
    let mut bytes = vec![0u8; info.xlated_length as usize];
    let mut info = Info { xlated_length: info.xlated_length, xlated: bytes.as_mut_ptr() as u64, ..Info::default() };
    ask(&mut info)?;
    Ok(bytes
        .chunks_exact(8)
        .map(|b| Instruction {
            code: b[0],
            registers: b[1],
            offset: i16::from_ne_bytes([b[2], b[3]]),
            immediate: i32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        })
        .collect())
}

/// Kernel functions by address, for calls are written relative to one of them.
struct Symbols {
    base: u64,
    by_address: BTreeMap<u64, String>,
}

impl Symbols {
    fn read() -> anyhow::Result<Symbols> {
        let text = std::fs::read_to_string("/proc/kallsyms").context("read /proc/kallsyms")?;
        let mut by_address = BTreeMap::new();
        let mut base = 0;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            if let (Some(address), Some(_), Some(name), None) = (words.next(), words.next(), words.next(), words.next())
            {
                let address = u64::from_str_radix(address, 16)?;
                if name == "__bpf_call_base" {
                    base = address;
                }
                by_address.insert(address, name.to_owned());
            }
        }
        anyhow::ensure!(base != 0, "/proc/kallsyms hides addresses: kernel.kptr_restrict");
        Ok(Symbols { base, by_address })
    }

    fn name(&self, call: &Instruction) -> String {
        if call.registers >> 4 == SUBPROGRAM {
            return "subprogram".to_owned();
        }
        let address = self.base.wrapping_add_signed(i64::from(call.immediate));
        self.by_address.get(&address).cloned().unwrap_or_else(|| format!("{address:x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(code: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers: 0, offset, immediate }
    }

    #[test]
    fn the_way_with_fewer_calls_after_a_look_up_is_found() {
        let name = |i: &Instruction| ["__htab_map_lookup_elem", "slow", DELIVER][i.immediate as usize].to_owned();
        let code = [
            op(0x15, 3, 0), // if ... goto 4
            op(CALL, 0, 0), // look-up
            op(0x15, 1, 0), // if ... goto 4
            op(JUMP, 1, 0), // goto 5
            op(CALL, 0, 1), // slow
            op(CALL, 0, 2), // deliver
            op(EXIT, 0, 0),
        ];
        assert_eq!(fewest_calls(&code, name), Some(vec!["__htab_map_lookup_elem".to_owned(), DELIVER.to_owned()]));
    }

    #[test]
    fn without_a_look_up_there_is_no_path() {
        let code = [op(CALL, 0, 2), op(EXIT, 0, 0)];
        assert_eq!(fewest_calls(&code, |_| DELIVER.to_owned()), None);
    }
}
