//! How `restore` cuts an archive into frames and decodes them, whole or as streams, against a stock
//! decoder of the concatenation: what it takes decodes to the same bytes whatever pieces it arrives
//! in, and what it refuses though the stock decoder does not is what it says it refuses.
//!
//! An input is the size of a piece (2 bytes) and a list of frames: made by zstd with or without size
//! and checksum, put together from raw and repeated blocks, skippable, or any bytes.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tarpon::restore::layers::{
    Body, Budget, Chunk, Content, Cut, Cutter, Frame, Part, Space, Stream, joined_bytes, whole,
};
use tarpon_fuzz::Input;
use zstd_safe::{CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer};

/// Content of one input at most.
const CONTENT_BYTES_MAX: usize = 2 << 20;
const BUDGET_BYTES: usize = 64 << 20;
/// What may be refused though a stock decoder takes it.
const REFUSED: [&str; 3] = [
    "needs a window of more than",
    "is of a kind that is not used",
    "goes on without content",
];

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let step = 1 + usize::from(input.u16());
    let mut wire = Vec::new();
    while !input.is_empty() {
        push_frame(&mut input, &mut wire);
    }
    let Some(stock) = stock(&wire) else {
        return;
    };
    let at_once = restored(&wire, usize::MAX);
    for step in [step, 1] {
        let in_pieces = restored(&wire, step);
        match (&at_once, &in_pieces) {
            (Ok(one), Ok(other)) => assert!(one == other, "pieces of {step} change the content"),
            (Err(_), Err(_)) => {}
            (one, other) => panic!("pieces of {step}: {:?}, {:?}", one.is_ok(), other.is_ok()),
        }
    }
    match (at_once, stock) {
        (Ok(ours), Ok(stock)) => assert!(ours == stock, "a stock decoder disagrees"),
        (Ok(_), Err(error)) => panic!("a stock decoder refuses it: {error}"),
        (Err(error), Ok(_)) => {
            let is_said = REFUSED.iter().any(|what| error.contains(what));
            // As a stream it passes over a size that is wrong where the last block is empty, as no
            // decoder does that has all of the frame.
            let is_refused = || stock_at_once(&wire).is_err();
            assert!(is_said || is_refused(), "a stock decoder takes it: {error}");
        }
        (Err(_), Err(_)) => {}
    }
});

fn push_frame(input: &mut Input<'_>, wire: &mut Vec<u8>) {
    let kind = input.u8();
    let (sized, checked) = (kind & 16 != 0, kind & 32 != 0);
    match kind & 7 {
        0 | 1 => {
            let times = 1 + usize::from(input.u8());
            let data = input.text().repeat(times);
            let mut context = CCtx::create();
            context
                .set_parameter(CParameter::ContentSizeFlag(sized))
                .unwrap();
            context
                .set_parameter(CParameter::ChecksumFlag(checked))
                .unwrap();
            let mut frame = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
            context.compress2(&mut frame, &data).unwrap();
            wire.extend_from_slice(&frame);
        }
        2 | 3 => push_blocks(input, wire, sized),
        4 | 5 => {
            let data = input.text();
            let magic = 0x184D_2A50 + u32::from(kind >> 4);
            wire.extend_from_slice(&magic.to_le_bytes());
            wire.extend_from_slice(&(data.len() as u32).to_le_bytes());
            wire.extend_from_slice(data);
        }
        6 => wire.extend_from_slice(input.text()),
        // One bit of what is there so far.
        _ => {
            let at = usize::from(input.u16());
            let bit = 1 << (input.u8() & 7);
            if let Some(byte) = wire.get_mut(at) {
                *byte ^= bit;
            }
        }
    }
}

/// A frame without checksum of raw and repeated blocks; with a window, or in one segment.
fn push_blocks(input: &mut Input<'_>, wire: &mut Vec<u8>, sized: bool) {
    wire.extend_from_slice(&0xFD2F_B528u32.to_le_bytes());
    match sized {
        true => {
            wire.push(0b1010_0000);
            wire.extend_from_slice(&input.u32().to_le_bytes());
        }
        false => wire.extend_from_slice(&[0, input.u8()]),
    }
    let count = input.u8() & 15;
    for number in 0..=count {
        let is_last = u32::from(number == count);
        let kind = input.u8();
        match kind & 1 {
            0 => {
                let data = input.text();
                let head = (data.len() as u32) << 3 | is_last;
                wire.extend_from_slice(&head.to_le_bytes()[..3]);
                wire.extend_from_slice(data);
            }
            _ => {
                let len = u32::from(input.u16()) << (kind >> 7);
                let head = len << 3 | 1 << 1 | is_last;
                wire.extend_from_slice(&head.to_le_bytes()[..3]);
                wire.push(kind);
            }
        }
    }
}

/// What a stock decoder makes of it; `None` when that is too much to compare.
fn stock(wire: &[u8]) -> Option<Result<Vec<u8>, String>> {
    let mut context = DCtx::create();
    context.set_parameter(DParameter::WindowLogMax(27)).unwrap();
    let mut content: Vec<u8> = Vec::with_capacity(CONTENT_BYTES_MAX);
    let mut input = InBuffer::around(wire);
    let mut hint = 0;
    loop {
        let (used, made) = (input.pos, content.len());
        if used == wire.len() && hint == 0 {
            return Some(Ok(content));
        }
        let mut output = OutBuffer::around_pos(&mut content, made);
        match context.decompress_stream(&mut output, &mut input) {
            Ok(next) => hint = next,
            Err(code) => return Some(Err(zstd_safe::get_error_name(code).to_owned())),
        }
        if content.len() == CONTENT_BYTES_MAX {
            return None;
        }
        if input.pos == used && content.len() == made && hint != 0 {
            return Some(Err("it ends too soon".to_owned()));
        }
    }
}

/// The same of a decoder that has all of it.
fn stock_at_once(wire: &[u8]) -> Result<usize, usize> {
    let mut content: Vec<u8> = Vec::with_capacity(CONTENT_BYTES_MAX);
    DCtx::create().decompress(&mut content, wire)
}

/// What `restore` makes of it when it arrives in pieces of `step` bytes.
fn restored(wire: &[u8], step: usize) -> Result<Vec<u8>, String> {
    let (received, decoded) = (Budget::new(BUDGET_BYTES), Budget::new(BUDGET_BYTES));
    let mut reader = Reader {
        decoded,
        context: DCtx::create(),
        stream: Stream::default(),
        content: Vec::new(),
    };
    let mut cutter = Cutter::default();
    for piece in wire.chunks(step) {
        let mut buffer = received.try_take(piece.len()).expect("pieces fit");
        buffer.bytes.clear();
        buffer.bytes.extend_from_slice(piece);
        buffer.shrink(piece.len(), 0);
        let chunk = Arc::new(Chunk::new(buffer, piece.len()));
        let mut at = 0;
        while let Some(cut) = cutter.cut(&chunk, &mut at).map_err(text)? {
            reader.take(cut)?;
        }
        assert_eq!(at, chunk.len(), "all of a piece is taken");
    }
    cutter.finish().map_err(text)?;
    assert_eq!(cutter.position(), wire.len() as u64);
    Ok(reader.content)
}

fn text(error: tarpon::restore::RestoreError) -> String {
    assert_eq!(error.exit_code(), 5);
    error.to_string()
}

struct Reader {
    decoded: Arc<Budget>,
    context: DCtx<'static>,
    stream: Stream,
    content: Vec<u8>,
}

impl Reader {
    fn take(&mut self, cut: Cut) -> Result<(), String> {
        match cut {
            Cut::Whole(frame) => {
                let space = self.space(&frame);
                let content = whole(&mut self.context, frame, space).map_err(text)?;
                self.push(&content);
                Ok(())
            }
            Cut::Part(part) => self.part(&part),
            Cut::Skipped { .. } => Ok(()),
        }
    }

    fn space(&self, frame: &Frame) -> Space {
        let take = |len| self.decoded.try_take(len).expect("a frame fits");
        match &frame.body {
            Body::Stored { .. } => Space::Stored(self.decoded.try_room(1).expect("there is room")),
            Body::Coded(wire) => {
                Space::Coded(take(frame.content_bytes), joined_bytes(wire).map(take))
            }
        }
    }

    fn part(&mut self, part: &Part) -> Result<(), String> {
        if part.is_first {
            self.stream.begin();
        }
        for slice in &part.wire {
            let mut wire = &slice[..];
            loop {
                let mut into = Vec::with_capacity(1000);
                let used = self.stream.decode(wire, part.offset, &mut into);
                wire = &wire[used.map_err(text)?..];
                self.content.extend_from_slice(&into);
                if wire.is_empty() && into.len() < into.capacity() {
                    break;
                }
            }
        }
        if part.is_last {
            self.stream.finish(part.offset).map_err(text)?;
        }
        Ok(())
    }

    fn push(&mut self, content: &Content) {
        for piece in content.pieces() {
            self.content.extend_from_slice(piece);
        }
    }
}
