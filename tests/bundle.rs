//! The bundle as users and programs see it: the documented schema, the commands, and how much memory reading takes.

// A test throughout: what the lints allow in tests is meant for the helpers outside of test functions too.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Output};

use kprov::bundle::Manifest;
use kprov::bundle::manifest::{Blob, Content, FORMAT, HostFile, sha256_hex};
use kprov::bundle::pack::pack;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A bundle of one big file: so many MiB that hardly compress.
fn big(path: &Path, mib: u64) -> Manifest {
    struct Noise(u64, u64);
    impl Read for Noise {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = (self.1 as usize).min(buffer.len());
            for byte in &mut buffer[..n] {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (self.0 >> 33) as u8 & 0x3f;
            }
            self.1 -= n as u64;
            Ok(n)
        }
    }
    let size = mib << 20;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut noise = Noise(1, size);
    while let n @ 1.. = noise.read(&mut buffer).unwrap() {
        hash.update(&buffer[..n]);
    }
    let hex = hash.finalize().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let file = HostFile {
        path: "/usr/bin/kubelet".into(),
        mode: 0o755,
        unless: vec!["/usr/sbin/kubelet".into()],
        content: Content::Blob(hex.clone()),
    };
    let link = HostFile {
        path: "/usr/local/bin/kubectl".into(),
        mode: 0o777,
        unless: Vec::new(),
        content: Content::Link("/usr/bin/kubelet".into()),
    };
    let manifest = Manifest {
        format: FORMAT,
        kubernetes: "v1.36.3".into(),
        arch: "amd64".into(),
        parts: [("kubernetes".to_owned(), "1.36.3".to_owned())].into(),
        files: vec![file, link],
        images: Vec::new(),
        blobs: vec![Blob { sha256: hex, size }],
    };
    pack(&manifest, |_| Ok(Box::new(Noise(1, size))), path, 1).unwrap();
    manifest
}

fn kprov(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kprov")).args(args).output().unwrap()
}

#[test]
fn reading_takes_less_than_64_mb() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("big.tar.zst");
    big(&file, 200);
    // RLIMIT_DATA counts all private memory that can be written: an allocation beyond it fails, and kprov with it.
    let limited = |args: &str| {
        let script = format!("ulimit -d 65536 && exec \"$0\" bundle {args}");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_kprov"), file.to_str().unwrap()])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    limited("verify \"$1\"");
    limited("inspect \"$1\"");
    limited("images \"$1\" --out images.tar");
}

#[test]
fn the_commands_say_what_is_wrong_and_exit_with_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.tar.zst");
    let manifest = big(&file, 1);
    let path = file.to_str().unwrap();
    let good = kprov(&["bundle", "verify", path]);
    assert!(good.status.success() && String::from_utf8_lossy(&good.stdout).contains(&manifest.id().unwrap()));
    let seen = kprov(&["bundle", "inspect", path, "-o", "json"]);
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen["manifest"]["files"][0]["path"], "/usr/bin/kubelet");
    let other = kprov(&["bundle", "verify", path, "--arch", "arm64"]);
    assert_eq!(other.status.code(), Some(1));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let bad = kprov(&["bundle", "verify", path]);
    assert_eq!(bad.status.code(), Some(1));
    let text = String::from_utf8_lossy(&bad.stderr);
    assert!(text.starts_with("error: bad bundle: ") && text.contains("/usr/bin/kubelet"), "{text}");
    let archive = dir.path().join("images.tar");
    let bad = kprov(&["bundle", "images", path, "--out", archive.to_str().unwrap()]);
    assert_eq!(bad.status.code(), Some(1));
    assert!(!archive.exists());
    let none = kprov(&["bundle", "verify", "/no/such/file"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("/no/such/file"));
}

/// As much of JSON Schema as the document uses.
fn fits(schema: &Value, value: &Value) -> Result<(), String> {
    let right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64(),
        Some(other) => return Err(format!("the test does not know the type {other}")),
        None => true,
    };
    let constant = schema.get("const").is_none_or(|c| c == value);
    let one_of = schema["enum"].as_array().is_none_or(|all| all.contains(value));
    let most = schema["maximum"].as_u64().is_none_or(|max| value.as_u64().is_some_and(|v| v <= max));
    if !(right && constant && one_of && most) {
        return Err(format!("{value} is not {schema}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            return Err(format!("{name} is missing in {value}"));
        }
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) => fits(schema, inner)?,
            (None, Some(Value::Bool(false))) => return Err(format!("{name} is not in the schema")),
            (None, Some(schema)) => fits(schema, inner)?,
            (None, None) => {}
        }
    }
    for inner in value.as_array().into_iter().flatten() {
        fits(&schema["items"], inner)?;
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let count = choices.iter().filter(|choice| fits(choice, value).is_ok()).count();
        if count != 1 {
            return Err(format!("{count} of the choices fit {value}"));
        }
    }
    Ok(())
}

#[test]
fn the_documented_schema_is_that_of_the_types() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bundle-format.md")).unwrap();
    let (_, after) = text.split_once("```json\n").unwrap();
    let schema: Value = serde_json::from_str(after.split_once("```").unwrap().0).unwrap();
    let layer = "a".repeat(64);
    let member = HostFile {
        path: "/opt/cni/bin/bridge".into(),
        mode: 0o755,
        unless: Vec::new(),
        content: Content::Member { layer: layer.clone(), name: "bridge".into(), sha256: sha256_hex(b"x"), size: 1 },
    };
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = big(&dir.path().join("b.tar.zst"), 1);
    manifest.files.push(member);
    manifest.images.push(kprov::bundle::manifest::Image {
        name: "registry.k8s.io/pause:3.10.1".into(),
        digest: format!("sha256:{}", "b".repeat(64)),
        config: format!("sha256:{}", "c".repeat(64)),
        layers: vec![format!("sha256:{layer}")],
    });
    for hex in [layer, "b".repeat(64), "c".repeat(64)] {
        manifest.blobs.push(Blob { sha256: hex, size: 1 });
    }
    manifest.check().unwrap();
    let value: Value = serde_json::from_slice(&manifest.to_bytes().unwrap()).unwrap();
    fits(&schema, &value).unwrap();

    // What the schema does not allow, the types do not read, and the other way round.
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut value = value.clone();
        change(&mut value);
        let by_schema = fits(&schema, &value).is_err();
        let by_type = Manifest::from_bytes(value.to_string().as_bytes()).is_err();
        assert!(by_schema && by_type, "schema {by_schema}, type {by_type}: {value}");
    };
    refused(&|v| v["format"] = 2.into());
    refused(&|v| v["arch"] = "riscv64".into());
    refused(&|v| v["more"] = 1.into());
    refused(&|v| v["files"][0]["mode"] = 0o4755.into());
    refused(&|v| v["files"][0]["more"] = 1.into());
    refused(&|v| v["files"][0]["link"] = "x".into());
    refused(&|v| drop(v["files"][0].as_object_mut().unwrap().remove("blob")));
    refused(&|v| v["files"][2]["member"]["more"] = 1.into());
    refused(&|v| v["images"][0]["more"] = 1.into());
    refused(&|v| drop(v["images"][0].as_object_mut().unwrap().remove("layers")));
    refused(&|v| v["blobs"][0]["more"] = 1.into());
    refused(&|v| v["blobs"][0]["size"] = (-1).into());
}

/// A file that looks like a program of these Go modules.
fn go_program(modules: &str) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01".to_vec();
    bytes.resize(64, 0);
    bytes[18] = 62;
    bytes.resize(5000, 7);
    bytes.extend_from_slice(b"\xff Go buildinf:\x08\x02");
    bytes.extend_from_slice(&[0; 16]);
    let list = [&[1; 16], modules.as_bytes(), &[2; 16]].concat();
    for text in [b"go1.26.8".as_slice(), &list] {
        assert!(text.len() < 1 << 14);
        bytes.extend_from_slice(&[(text.len() & 0x7f) as u8 | 0x80, (text.len() >> 7) as u8]);
        bytes.extend_from_slice(text);
    }
    bytes.resize(9000, 3);
    bytes
}

/// Holds a document against CycloneDX's own schema.
fn is_cyclonedx(document: &Value) {
    let schema = |name: &str| -> Value {
        let path = format!("{}/tests/schemas/{name}", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut registry = jsonschema::Registry::new();
    for name in ["spdx.schema.json", "jsf-0.82.schema.json"] {
        registry = registry.add(format!("http://cyclonedx.org/schema/{name}"), schema(name)).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let schema = schema("bom-1.5.schema.json");
    let validator = jsonschema::options().with_registry(&registry).build(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:?}");
    // The schema does refuse.
    let mut broken = document.clone();
    broken["components"][0]["type"] = "thing".into();
    assert!(!validator.is_valid(&broken));
}

#[test]
fn the_list_of_parts_is_cyclonedx_and_names_go_modules() {
    let dir = tempfile::tempdir().unwrap();
    let program = go_program(
        "path\tx\nmod\tkprov.io/x\t(devel)\t\ndep\tgithub.com/Example/Some\tv1.2.3+incompatible\th1:sum=\n\
         dep\tk8s.io/api\tv0.0.0\n=>\tk8s.io/api\tv0.36.3\th1:other=\n",
    );
    let hex = sha256_hex(&program);
    let manifest = Manifest {
        format: FORMAT,
        kubernetes: "v1.36.3".into(),
        arch: "amd64".into(),
        parts: [("kubernetes", "1.36.3"), ("pause", "3.10"), ("debian/ipset", "7.17-1+b1")]
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into(),
        files: vec![HostFile {
            path: "/usr/bin/kubelet".into(),
            mode: 0o755,
            unless: Vec::new(),
            content: Content::Blob(hex.clone()),
        }],
        images: Vec::new(),
        blobs: vec![Blob { sha256: hex, size: program.len() as u64 }],
    };
    let file = dir.path().join("b.tar.zst");
    pack(&manifest, |_| Ok(Box::new(io::Cursor::new(program.clone()))), &file, 1).unwrap();
    let output = kprov(&["bundle", "sbom", file.to_str().unwrap(), "-o", "json"]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    is_cyclonedx(&document);
    let purls: Vec<&str> =
        document["components"].as_array().unwrap().iter().filter_map(|c| c["purl"].as_str()).collect();
    for purl in [
        "pkg:golang/github.com/example/some@v1.2.3%2Bincompatible",
        "pkg:golang/k8s.io/api@v0.36.3",
        "pkg:golang/k8s.io/kubernetes@v1.36.3",
        "pkg:golang/stdlib@v1.26.8",
        "pkg:deb/debian/ipset@7.17-1%2Bb1?arch=amd64",
    ] {
        assert!(purls.contains(&purl), "{purl}: {purls:?}");
    }
    // Every reference leads somewhere.
    let whole = document["metadata"]["component"]["bom-ref"].as_str();
    let known: Vec<&str> =
        document["components"].as_array().unwrap().iter().filter_map(|c| c["bom-ref"].as_str()).chain(whole).collect();
    for edge in document["dependencies"].as_array().unwrap() {
        assert!(known.contains(&edge["ref"].as_str().unwrap()));
        assert!(edge["dependsOn"].as_array().unwrap().iter().all(|to| known.contains(&to.as_str().unwrap())));
    }
    let text = kprov(&["bundle", "sbom", file.to_str().unwrap()]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.starts_with("TYPE ") && text.contains("k8s.io/api"), "{text}");
}

#[test]
fn a_difference_is_told_and_asked_for_by_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.tar.zst"), dir.path().join("b.tar.zst"));
    big(&a, 1);
    big(&b, 2);
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let same = kprov(&["bundle", "diff", a, a, "--detailed-exitcode"]);
    assert_eq!(same.status.code(), Some(0));
    let plain = kprov(&["bundle", "diff", a, b]);
    assert_eq!(plain.status.code(), Some(0));
    let text = String::from_utf8(plain.stdout).unwrap();
    assert!(text.contains("~ /usr/bin/kubelet  1.0 MB becomes 2.1 MB"), "{text}");
    let detailed = kprov(&["bundle", "diff", a, b, "--detailed-exitcode", "-o", "json"]);
    assert_eq!(detailed.status.code(), Some(10));
    let value: Value = serde_json::from_slice(&detailed.stdout).unwrap();
    assert_eq!(value["files"][0]["to"]["size"], 2 << 20);
    let yaml = kprov(&["bundle", "diff", a, b, "-o", "yaml"]);
    assert!(String::from_utf8(yaml.stdout).unwrap().contains("change: changed"));
}
