//! The body of a request while it comes, and when it is there: in pieces, each with room in the
//! [budget](super::bodies).

use std::any::Any;
use std::sync::Arc;

use super::bodies::{Bodies, Lost, Share};
use super::client::Client;
use crate::limits::{BODY_FIRST_BYTES, BODY_GROWTH, BODY_PIECE_BYTES};

/// Takes a body as it comes, and keeps of it what it needs: little, whatever comes.
pub(crate) trait BodyReader: Any + Send {
    /// Takes the next bytes; how many bytes that was work for, as a [turn](super::socket) of a core counts those
    /// that are sent.
    fn take(&mut self, bytes: &[u8]) -> u64;
}

/// The body of a request, as it was sent but for its framing.
#[derive(Default)]
pub(crate) struct Body {
    /// None of them ever grows: nothing is copied, and the allocator has few sizes to deal with, so
    /// that what is counted is what is taken.
    pieces: Vec<Vec<u8>>,
    len_bytes: u64,
    /// Room that was claimed.
    room_bytes: u64,
    /// `None` for a request without a body.
    share: Option<Share>,
    reader: Option<Box<dyn BodyReader>>,
}

impl Body {
    /// One of which nothing has come.
    pub(crate) fn arriving(bodies: &Arc<Bodies>, client: Client) -> Body {
        Body {
            share: Some(bodies.arriving(client)),
            ..Body::default()
        }
    }

    /// One that was read and not kept.
    pub(super) fn read(reader: Box<dyn BodyReader>) -> Body {
        Body {
            reader: Some(reader),
            ..Body::default()
        }
    }

    /// What has read it, if it was read by such a one.
    pub(crate) fn into_reader<R: BodyReader>(self) -> Option<Box<R>> {
        let reader: Box<dyn Any> = self.reader?;
        reader.downcast().ok()
    }

    /// Something that is made of it, of the same client.
    pub(crate) fn made(&self, bodies: &Arc<Bodies>) -> Share {
        match &self.share {
            Some(share) => share.made(),
            None => bodies.whole(),
        }
    }

    /// What has come of it.
    pub(crate) fn pieces(&self) -> &[Vec<u8>] {
        &self.pieces
    }

    /// Takes what has come of it out, to be dropped piece by piece.
    pub(crate) fn take_pieces(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.pieces)
    }

    /// Takes its share out, for whatever its pieces become.
    pub(crate) fn take_share(&mut self) -> Option<Share> {
        self.share.take()
    }

    /// How much has come of it.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Waits for some room, unless there is some or the body has `most` bytes already.
    pub(super) async fn room(&mut self, most: u64) -> Result<(), Lost> {
        let Some(share) = &mut self.share else {
            return Ok(());
        };
        let had = self.room_bytes;
        if self.len_bytes < had || self.len_bytes >= most {
            return Ok(());
        }
        let ahead = (had * BODY_GROWTH).clamp(BODY_FIRST_BYTES, had + BODY_PIECE_BYTES);
        let piece = ahead.min(most) - had;
        share.claim(piece).await?;
        self.room_bytes += piece;
        self.pieces.push(Vec::with_capacity(piece as usize));
        Ok(())
    }

    /// Appends what `decode` makes of the next bytes of `input`, as many as there is
    /// [room](Body::room) for.
    pub(super) fn append<T>(
        &mut self,
        input: &[u8],
        most: u64,
        decode: impl FnOnce(&[u8], &mut Vec<u8>) -> T,
    ) -> T {
        // Of a body that has all it may have, only framing follows.
        let free = match self.len_bytes >= most {
            true => input.len(),
            false => (self.room_bytes - self.len_bytes) as usize,
        };
        let mut nothing = Vec::new();
        let out = self.pieces.last_mut().unwrap_or(&mut nothing);
        let had = out.len();
        let done = decode(&input[..free.min(input.len())], out);
        self.len_bytes += (out.len() - had) as u64;
        done
    }

    /// As [`Share::arrived`].
    pub(super) fn arrived(&mut self, bytes: u64) -> bool {
        let share = self.share.as_mut();
        share.is_some_and(|share| share.arrived(bytes))
    }

    /// As [`Share::is_whole`].
    pub(super) fn is_whole(&mut self) -> Result<(), Lost> {
        self.share.as_mut().map_or(Ok(()), Share::is_whole)
    }

    /// As [`Share::lost`].
    pub(super) async fn lost(&self) {
        match &self.share {
            Some(share) => share.lost().await,
            None => std::future::pending().await,
        }
    }
}
