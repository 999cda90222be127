//! kprov's own flannel in a bundle of official releases: compiled, pulled, or left out and missed.

use std::process::Command;
use std::sync::atomic::Ordering;

use crate::LeftOut;
use crate::content::{images, push};
use crate::proxy::{Fault, Proxy};
use crate::scene::{SIZE, Scene};
use crate::tools::{good, kprov, refused, root, text};

/// Without Go nothing is fetched, and what helps is said; a bundle without flannel is not taken for one with it, also
/// where another's image goes by that word; one with kprov's is.
pub fn trial() -> Result<(), LeftOut> {
    root()?;
    let scene = Scene::new()?;
    let files = Proxy::before(scene.files.address, |_| Fault::Pass);
    let mut images = images(SIZE);
    images.truncate(1);
    images[0].repository = "net/flannel".into();
    images[0].tag = "v1".into();
    push(scene.registry.address, &images);
    // No Go where one is looked for.
    let hidden = |command: &Command, path: &str| {
        let script = "mount -t tmpfs none /usr/local && exec \"$@\"";
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "--propagation", "private", "/bin/sh", "-c", script, "sh"]);
        outer.args(["env", &format!("PATH={path}")]).arg(command.get_program()).args(command.get_args());
        scene.alone(&mut outer);
        outer
    };
    let build = scene.with_flannel(&files.url(), &scene.images(), "cache");
    let said = refused(hidden(&build, text(scene.dir.path())).output().unwrap(), 1);
    for word in ["does not have: go (any from 1.19", "--no-flannel", "--image kprov.io/flannel:TAG="] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(files.seen.bytes.load(Ordering::Relaxed), 0, "something was fetched all the same");

    let init = |scene: &Scene| {
        let mut init = kprov();
        init.args(["init", "--dry-run", "--bundle", text(&scene.path("b.tar.zst"))]);
        let output = init.output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let with = |name: &str| {
        let source = format!("{name}:v1=http://{}/net/flannel:v1", scene.registry.address);
        let mut build = scene.with_flannel(&scene.mirror(), &scene.images(), "cache");
        build.args(["--image", &source]);
        build
    };
    let lacking = "error: the bundle has no flannel: ";
    good(with("other.example/flannel").arg("--no-flannel").output().unwrap());
    let said = init(&scene);
    assert!(said.contains(lacking) && said.contains("hint: kprov init --cni FILE"), "{said}");
    good(hidden(&with("kprov.io/flannel"), "/usr/bin:/bin").output().unwrap());
    assert!(!init(&scene).contains(lacking));
    let said = refused(with("kprov.io/flannel").arg("--no-flannel").output().unwrap(), 2);
    assert!(said.contains("both named by --image and not wanted"), "{said}");
    Ok(())
}
