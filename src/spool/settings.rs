//! `spool.json`, the one file beside the shards' folders: what must be known before any segment
//! can be read. The surroundings read it, count `starts` up, write it atomically (new file, sync,
//! rename, sync the folder), and only then go on.

use serde::Deserialize;
use serde::Serialize;

const FORMAT: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpoolFile {
    /// Random, made once: the seed of all checksums.
    pub spool_id: u64,
    /// How often a process has started with this spool; the number of the present start.
    pub starts: u32,
    /// Shards of the present start.
    pub shards: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpoolFileError {
    #[error("not a spool file")]
    Damaged,
    #[error("spool format {0} is newer than this program, which reads up to {FORMAT}")]
    NewerFormat(u32),
}

/// As it stands in the file. The id is text, because not every JSON reader keeps 64 bits.
#[derive(Serialize, Deserialize)]
struct Json {
    format: u32,
    spool_id: String,
    starts: u32,
    shards: u16,
}

impl SpoolFile {
    pub fn encode(&self) -> Vec<u8> {
        let spool_id = format!("{:016x}", self.spool_id);
        let json = Json {
            format: FORMAT,
            spool_id,
            starts: self.starts,
            shards: self.shards,
        };
        let mut bytes = serde_json::to_vec_pretty(&json).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<SpoolFile, SpoolFileError> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        // The format first: a newer one may differ in everything else.
        let Version { format } =
            serde_json::from_slice(bytes).map_err(|_| SpoolFileError::Damaged)?;
        if format > FORMAT {
            return Err(SpoolFileError::NewerFormat(format));
        }
        let json: Json = serde_json::from_slice(bytes).map_err(|_| SpoolFileError::Damaged)?;
        let spool_id =
            u64::from_str_radix(&json.spool_id, 16).map_err(|_| SpoolFileError::Damaged)?;
        Ok(SpoolFile {
            spool_id,
            starts: json.starts,
            shards: json.shards,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spool_file_survives_and_a_newer_one_is_refused() {
        let file = SpoolFile {
            spool_id: u64::MAX - 5,
            starts: 77,
            shards: 2,
        };
        assert_eq!(SpoolFile::decode(&file.encode()), Ok(file));
        let newer = br#"{ "format": 2, "all": "different" }"#;
        assert_eq!(
            SpoolFile::decode(newer),
            Err(SpoolFileError::NewerFormat(2))
        );
        for damaged in [
            &b""[..],
            b"{}",
            br#"{"format":1}"#,
            br#"{"format":1,"spool_id":"x"}"#,
        ] {
            assert_eq!(SpoolFile::decode(damaged), Err(SpoolFileError::Damaged));
        }
    }
}
