//! Python's pickles, read as data: what a file would have Python call is written down, never called.
//!
//! Knows the opcodes that `torch.save` writes with Python's pickle protocols 2 to 5. A pickle becomes a
//! table of nodes that name each other by number, so that shared and circular values cost nothing.

use std::collections::HashMap;

/// More instructions than the pickles of any checkpoint have together; a tensor takes some 45, and the full
/// one of DINO with a ViT-B has 800 tensors. Each makes at most one node, one entry of the memo, of the
/// stack, or of a collection, so that this bounds the memory that a small file can ask for.
pub(super) const MOST_INSTRUCTIONS: usize = 1 << 19;

/// Longer texts are no names. Many tensors may have the same one, and each gets a copy.
const MOST_NAME_BYTES: usize = 256;

/// Why bytes are not a pickle of `torch.save`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PickleError {
    /// The bytes end inside the pickle.
    #[error("its pickle is cut off after {0} bytes")]
    Cut(usize),
    /// An instruction that `torch.save` never writes.
    #[error(
        "its pickle has the opcode 0x{opcode:02x} at byte {at}, which `torch.save` does not write"
    )]
    Opcode {
        /// The instruction.
        opcode: u8,
        /// Where it stands.
        at: usize,
    },
    /// An instruction that does not fit what stands before it.
    #[error("its pickle is damaged at byte {0}")]
    Damaged(usize),
    /// A table larger than any checkpoint's.
    #[error("its pickles have more than {MOST_INSTRUCTIONS} instructions, which no checkpoint has")]
    TooLarge,
}

/// A node's number in its pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id(u32);

/// A value; text and bytes lie in the file's own.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// A number that nothing here asks for: a float, or an integer of more than 64 bits.
    OtherNumber,
    Text(&'a str),
    /// Bytes, or text that is no UTF-8, as in Python 2, or too long for a name.
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Set,
    Dict(Vec<(Id, Id)>),
    /// The name of something in a Python module.
    Global {
        module: &'a str,
        name: &'a str,
    },
    /// What Python would make by calling `callee`; `items` were assigned to it afterwards.
    Call {
        callee: Id,
        args: Id,
        items: Vec<(Id, Id)>,
    },
    /// What lies outside the pickle: a storage of `torch.save`.
    Persistent(Id),
}

/// A whole pickle.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    root: Id,
    /// Bytes that it takes, so that the next one can be found behind it.
    pub(crate) len: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle that `bytes` open with, by at most `instructions`, of which those that are left
    /// stay.
    pub(crate) fn read(bytes: &'a [u8], instructions: &mut usize) -> Result<Self, PickleError> {
        let mut machine = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run(instructions)?;
        Ok(Self { nodes: machine.nodes, root, len: machine.at })
    }

    /// What the pickle holds.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// The numbers of all nodes.
    pub(crate) fn ids(&self) -> impl Iterator<Item = Id> {
        (0..self.nodes.len() as u32).map(Id)
    }

    /// The node of a number.
    pub(crate) fn node(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    /// Text.
    pub(crate) fn text(&self, id: Id) -> Option<&'a str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    pub(crate) fn int(&self, id: Id) -> Option<i64> {
        match self.node(id) {
            Node::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// What a tuple or a list holds.
    pub(crate) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.node(id) {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// Whole numbers in a tuple or a list of at most so many.
    pub(crate) fn ints(&self, id: Id, most: usize) -> Option<Vec<i64>> {
        let items = self.sequence(id).filter(|items| items.len() <= most)?;
        items.iter().map(|item| self.int(*item)).collect()
    }

    /// Module and name of a global.
    pub(crate) fn global(&self, id: Id) -> Option<(&'a str, &'a str)> {
        match self.node(id) {
            Node::Global { module, name } => Some((module, name)),
            _ => None,
        }
    }

    /// Module and name of what a call calls, and its arguments.
    pub(crate) fn call(&self, id: Id) -> Option<((&'a str, &'a str), &[Id])> {
        match self.node(id) {
            Node::Call { callee, args, .. } => Some((self.global(*callee)?, self.sequence(*args)?)),
            _ => None,
        }
    }

    /// Keys and values of a dictionary, an `OrderedDict` or a `defaultdict`.
    pub(crate) fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.node(id) {
            Node::Dict(entries) => Some(entries),
            Node::Call { callee, items, .. } => match self.global(*callee)? {
                ("collections", "OrderedDict" | "defaultdict") => Some(items),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The pickle machine: a stack of nodes, and a memo of those to come back to.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self, instructions: &mut usize) -> Result<Id, PickleError> {
        loop {
            *instructions = instructions.checked_sub(1).ok_or(PickleError::TooLarge)?;
            let at = self.at;
            let opcode = self.byte()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode).map_err(|error| match error {
                PickleError::Opcode { opcode, .. } => PickleError::Opcode { opcode, at },
                PickleError::Damaged(_) => PickleError::Damaged(at),
                other => other,
            })?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            // PROTO, FRAME: how it is written, not what.
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.pop_to_mark().map(drop),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Node::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(value.into()))
            }
            0x8a => self.long(1),
            0x8b => self.long(4),
            b'G' => {
                self.take(8)?;
                self.push(Node::OtherNumber)
            }
            b'X' => self.text(4),
            0x8c => self.text(1),
            0x8d => self.text(8),
            // Python 2 writes names of tensors as these.
            b'U' => self.text(1),
            b'T' => self.text(4),
            b'B' => self.byte_string(4),
            b'C' => self.byte_string(1),
            0x8e | 0x96 => self.byte_string(8),
            b')' => self.push(Node::Tuple(Vec::new())),
            0x85..=0x87 => self.tuple_of(usize::from(opcode - 0x84)),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))
            }
            b']' => self.push(Node::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(&items)
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.assign(&[key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.assign(&items)
            }
            0x8f => self.push(Node::Set),
            0x90 => self.pop_to_mark().map(drop),
            0x91 => {
                self.pop_to_mark()?;
                self.push(Node::Set)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Node::Global { module, name })
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.push(Node::Global { module, name })
            }
            // REDUCE, NEWOBJ: a call, of a function or of a class.
            b'R' | 0x81 => {
                let (args, callee) = (self.pop()?, self.pop()?);
                self.push(Node::Call { callee, args, items: Vec::new() })
            }
            0x92 => {
                let (_keywords, args, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.push(Node::Call { callee, args, items: Vec::new() })
            }
            // BUILD: attributes, which nothing here asks for.
            b'b' => self.pop().map(drop),
            b'q' => {
                let index = self.byte()?;
                self.memoize(index.into())
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.memoize(index)
            }
            0x94 => self.memoize(self.memo.len() as u32),
            b'h' => {
                let index = self.byte()?;
                self.recall(index.into())
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id))
            }
            opcode => Err(PickleError::Opcode { opcode, at: 0 }),
        }
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(PickleError::Cut(self.bytes.len()))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Bytes behind their number, which takes `width` bytes itself.
    fn counted(&mut self, width: usize) -> Result<&'a [u8], PickleError> {
        let mut len = [0; 8];
        len[..width].copy_from_slice(self.take(width)?);
        let len = usize::try_from(u64::from_le_bytes(len));
        self.take(len.map_err(|_| PickleError::Cut(self.bytes.len()))?)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take(MOST_NAME_BYTES).position(|byte| *byte == b'\n');
        let is_long = rest.len() >= MOST_NAME_BYTES;
        let none = || if is_long { damaged() } else { PickleError::Cut(self.bytes.len()) };
        let line = self.take(len.ok_or_else(none)?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| damaged())
    }

    fn text(&mut self, width: usize) -> Result<(), PickleError> {
        let bytes = self.counted(width)?;
        let name = (bytes.len() <= MOST_NAME_BYTES).then(|| std::str::from_utf8(bytes).ok());
        self.push(name.flatten().map_or(Node::Bytes, Node::Text))
    }

    fn byte_string(&mut self, width: usize) -> Result<(), PickleError> {
        self.counted(width)?;
        self.push(Node::Bytes)
    }

    fn long(&mut self, width: usize) -> Result<(), PickleError> {
        let bytes = self.counted(width)?;
        let sign = bytes.last().is_some_and(|byte| *byte >= 0x80);
        let mut value = [if sign { 0xff } else { 0 }; 8];
        let node = match value.get_mut(..bytes.len()) {
            Some(low) => {
                low.copy_from_slice(bytes);
                Node::Int(i64::from_le_bytes(value))
            }
            None => Node::OtherNumber,
        };
        self.push(node)
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), PickleError> {
        self.stack.push(Id(self.nodes.len() as u32));
        self.nodes.push(node);
        Ok(())
    }

    /// What stands above the last mark.
    fn top(&self) -> Result<Id, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack[floor.min(self.stack.len())..].last().copied().ok_or_else(damaged)
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_text(&mut self) -> Result<&'a str, PickleError> {
        let id = self.pop()?;
        match &self.nodes[id.0 as usize] {
            Node::Text(text) => Ok(text),
            _ => Err(damaged()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(damaged)?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple_of(&mut self, len: usize) -> Result<(), PickleError> {
        let mut items = Vec::with_capacity(len);
        for _ in 0..len {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    fn append(&mut self, added: &[Id]) -> Result<(), PickleError> {
        let id = self.top()?;
        match &mut self.nodes[id.0 as usize] {
            Node::List(items) => items.extend(added),
            // A subclass of list, or a `deque`.
            Node::Call { .. } => {}
            _ => return Err(damaged()),
        }
        Ok(())
    }

    fn assign(&mut self, added: &[Id]) -> Result<(), PickleError> {
        let id = self.top()?;
        let (pairs, []) = added.as_chunks::<2>() else { return Err(damaged()) };
        let pairs = pairs.iter().map(|[key, value]| (*key, *value));
        match &mut self.nodes[id.0 as usize] {
            Node::Dict(items) | Node::Call { items, .. } => items.extend(pairs),
            _ => return Err(damaged()),
        }
        Ok(())
    }

    fn memoize(&mut self, index: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), PickleError> {
        let id = *self.memo.get(&index).ok_or_else(damaged)?;
        self.stack.push(id);
        Ok(())
    }
}

/// An error whose place is filled in by [`Machine::run`].
fn damaged() -> PickleError {
    PickleError::Damaged(0)
}
