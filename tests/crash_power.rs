//! Power cuts: the file system of the spool is shut down under load, as if the machine had lost
//! its power, and mounted again. Nothing acknowledged may be lost with `Spool_Sync = commit`; with
//! `none` some must be, or the cuts would show nothing.
//!
//! Needs root, loop devices and xfsprogs; says so and passes where it cannot run. `bench/crash`
//! runs it with more cuts and with both file systems.

mod crash_rig;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crash_rig::Plan;
use crash_rig::Rig;
use crash_rig::wait_until;
use tempfile::TempDir;

/// Cuts of an ordinary test run.
const CUTS: u64 = 2;

/// Bytes of an image; XFS wants 300 MB at least. The file is sparse.
const IMAGE_BYTES: u64 = 1 << 30;

/// A file system in a file, mounted.
struct Image {
    folder: TempDir,
    kind: String,
}

impl Image {
    /// Makes and mounts one, or says why that is not possible here.
    fn make(kind: &str) -> Result<Image, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let image = Image {
            folder,
            kind: kind.to_owned(),
        };
        let file = fs::File::create(image.file()).map_err(|error| error.to_string())?;
        file.set_len(IMAGE_BYTES)
            .map_err(|error| error.to_string())?;
        fs::create_dir(image.mount_point()).map_err(|error| error.to_string())?;
        let quiet = if kind == "xfs" { "-q" } else { "-qF" };
        run(Command::new(format!("mkfs.{kind}"))
            .arg(quiet)
            .arg(image.file()))?;
        run(Command::new("xfs_io").arg("-V"))?;
        image.mount()?;
        Ok(image)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn mount(&self) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop", "-t", &self.kind]);
        run(mount.arg(self.file()).arg(self.mount_point()))
    }

    /// Everything that is not on the device is gone; the file system answers errors from now on.
    fn cut(&self) {
        let mut shutdown = Command::new("xfs_io");
        run(shutdown
            .args(["-x", "-c", "shutdown"])
            .arg(self.mount_point()))
        .expect("a power cut");
    }

    /// The machine starts again.
    fn restore(&self) {
        // The kernel closes the files of a killed process a moment after its end.
        wait_until("the unmounting after a cut", || {
            unmount(&self.mount_point()).is_ok()
        });
        self.mount().expect("the file system recovers");
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // Lazily: a failed test may still have an engine that runs on it.
        let _ = run(Command::new("umount").arg("-l").arg(self.mount_point()));
    }
}

fn unmount(path: &Path) -> Result<(), String> {
    run(Command::new("umount").arg(path))
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// Cuts the power again and again, in half of the lives while nothing is delivered, so that the
/// only copy of every message is the one in the spool. Returns how many messages were lost.
fn cut_and_recover(kind: &str, sync: &'static str, cuts: u64) -> Result<u64, String> {
    let image = Image::make(kind)?;
    let seed = crash_rig::seed();
    let mut lost = 0;
    for (held, cuts) in [(true, cuts.div_ceil(2)), (false, cuts / 2)] {
        if cuts == 0 {
            continue;
        }
        let spool = image
            .mount_point()
            .join(if held { "held" } else { "moving" });
        let plan = Plan {
            sync,
            held,
            seed: seed + u64::from(held),
        };
        let mut rig = Rig::start(plan, Some(&spool));
        for cut in 1..=cuts {
            let moment = rig.moment();
            let life = rig.live(moment, |engine| {
                image.cut();
                engine.kill();
            });
            image.restore();
            println!("cut {cut:>3}/{cuts}: {life}");
        }
        let (_, verdict) = rig.conclude();
        println!("\n{cuts} cuts, {kind}, Spool_Sync = {sync}, delivery held: {held}\n{verdict}\n");
        if sync == "commit" {
            verdict.assert_nothing_lost();
        }
        lost += verdict.seen.lost;
    }
    Ok(lost)
}

fn file_systems() -> Vec<String> {
    let chosen = std::env::var("PELTON_CRASH_FILE_SYSTEMS").unwrap_or_else(|_| "xfs".to_owned());
    chosen.split(',').map(str::to_owned).collect()
}

#[test]
fn nothing_acknowledged_is_lost_in_a_power_cut_with_a_sync_per_commit() {
    let cuts = crash_rig::number("PELTON_CRASH_CUTS", CUTS);
    for kind in file_systems() {
        match cut_and_recover(&kind, "commit", cuts) {
            Ok(lost) => assert_eq!(lost, 0),
            Err(reason) => println!("skipped on {kind}: {reason}"),
        }
    }
}

#[test]
fn without_syncs_the_same_cuts_lose_mail() {
    let cuts = crash_rig::number("PELTON_CRASH_CUTS", CUTS);
    for kind in file_systems() {
        match cut_and_recover(&kind, "none", cuts) {
            Ok(lost) => assert!(lost > 0, "{cuts} cuts lost nothing: they cut nothing"),
            Err(reason) => println!("skipped on {kind}: {reason}"),
        }
    }
}
