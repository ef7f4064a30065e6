//! Files of this machine → objects of a store. Each is asked for once; who asks, asks again.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};

use super::RemoteError;
use super::client::{Object, Version, status};

/// Files up to this size go in one request, larger ones in parts of it.
const PART_BYTES: u64 = 8 << 20;
/// Stores take no more parts than this.
const MOST_PARTS: u64 = 10_000;
/// One connection to a store carries a tenth of what a fast network does; so many parts are in memory.
const PARTS_AT_ONCE: usize = 8;

/// Bytes of a file that are sent at a time, where it goes in parts.
pub const MOST_ON_THEIR_WAY: u64 = PARTS_AT_ONCE as u64 * PART_BYTES;

/// What an object may take the place of.
#[derive(Clone)]
pub enum Over {
    Nothing,
    /// An object that was read, and is still the same.
    This(UpdateVersion),
    Anything,
}

impl Object {
    /// Makes the object of a file, whole or not at all; what it is then.
    ///
    /// # Errors
    /// As every request, and when the file cannot be read or the store has not as many bytes of it.
    pub async fn put(&self, file: &File, size: u64, in_parts: bool) -> Result<Version, RemoteError> {
        if in_parts && size > PART_BYTES {
            let mut upload = self.within(self.store.put_multipart(&self.path)).await??;
            let put = async {
                self.put_parts(&mut *upload, file, size).await?;
                self.within(upload.complete()).await??;
                Ok(())
            };
            if let Err(error) = put.await {
                // Parts that nobody wants cost rent.
                let _ = self.within(upload.abort()).await;
                return Err(error);
            }
        } else {
            let bytes = read(file, 0, size)?;
            self.within(self.store.put(&self.path, bytes.into())).await??;
        }
        let version = self.version().await?;
        if version.size == size { Ok(version) } else { Err(RemoteError::Cut) }
    }

    async fn put_parts(&self, upload: &mut dyn MultipartUpload, file: &File, size: u64) -> Result<(), RemoteError> {
        let each = PART_BYTES.max(size.div_ceil(MOST_PARTS));
        let (mut place, mut on_their_way) = (0, FuturesUnordered::new());
        loop {
            while place < size && on_their_way.len() < PARTS_AT_ONCE {
                let length = each.min(size - place);
                on_their_way.push(upload.put_part(read(file, place, length)?.into()));
                place += length;
            }
            let Some(sent) = self.within(on_their_way.next()).await? else { return Ok(()) };
            sent?;
        }
    }

    /// Makes a small object; false when another has come into its place.
    ///
    /// # Errors
    /// As every request.
    pub async fn put_small(&self, bytes: Vec<u8>, over: Over) -> Result<bool, RemoteError> {
        let bytes = PutPayload::from(Bytes::from(bytes));
        let mode = match over {
            Over::Nothing => PutMode::Create,
            Over::This(version) => PutMode::Update(version),
            Over::Anything => PutMode::Overwrite,
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.within(self.store.put_opts(&self.path, bytes.clone(), options)).await? {
            Ok(_) => Ok(true),
            Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => Ok(false),
            // Web servers and some stores know no conditions.
            Err(error) if knows_no_conditions(&error) => {
                self.within(self.store.put(&self.path, bytes)).await??;
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// # Errors
    /// As every request; that there is no such object is none.
    pub async fn remove(&self) -> Result<(), RemoteError> {
        match self.within(self.store.delete(&self.path)).await? {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn knows_no_conditions(error: &Error) -> bool {
    const NOT_IMPLEMENTED: u16 = 501;
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. }) || status(error) == Some(NOT_IMPLEMENTED)
}

fn read(file: &File, place: u64, length: u64) -> Result<Bytes, RemoteError> {
    let mut bytes = vec![0; length as usize];
    let failed = |error: std::io::Error| RemoteError::Failed { why: format!("its file here: {error}") };
    file.read_exact_at(&mut bytes, place).map_err(failed)?;
    Ok(bytes.into())
}
