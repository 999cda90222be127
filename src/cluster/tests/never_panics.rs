//! Whatever is given to the loaders, they answer with documents or with problems.

use proptest::prelude::*;

use super::*;

const VALID: [&str; 3] = [include_str!("init-defaults.yaml"), include_str!("full.yaml"), include_str!("wrong.yaml")];

fn all_loaders(text: &str) {
    let common = || CommonFlags { config: Some("f".into()), ..CommonFlags::default() };
    let flags = InitFlags { common: common(), ..InitFlags::default() };
    if let Err(problems) = load_init(&flags, Some(("f", text)), None, &facts(), &bundle()) {
        assert!(!problems.is_empty());
        let _ = problems.to_string();
    }
    let flags = JoinFlags { common: common(), ..JoinFlags::default() };
    let _ = load_join(&flags, Some(("f", text)), &facts()).map_err(|problems| problems.to_string());
    let flags = ResetFlags { common: common(), ..ResetFlags::default() };
    let _ = load_reset(&flags, Some(("f", text))).map_err(|problems| problems.to_string());
}

proptest! {
    #[test]
    fn on_any_text(text in any::<String>()) {
        all_loaders(&text);
    }

    #[test]
    fn on_documents_of_any_values(value in "\\PC{0,40}", field in "[a-zA-Z]{1,20}", kind in prop::sample::select(vec!["InitConfiguration", "ClusterConfiguration", "JoinConfiguration", "ResetConfiguration"])) {
        all_loaders(&format!("apiVersion: kubeadm.k8s.io/v1beta4\nkind: {kind}\n{field}: {value}\n"));
    }

    #[test]
    fn on_valid_documents_that_were_cut_and_mixed(which in 0..3_usize, cuts in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64, "[ -~\n]{0,6}"), 1..4)) {
        let mut text = VALID[which].to_owned();
        for (from, length, with) in cuts {
            let mut start = (text.len() as f64 * from) as usize;
            let mut end = start + (30.0 * length) as usize;
            end = end.min(text.len());
            while !text.is_char_boundary(start) { start -= 1; }
            while !text.is_char_boundary(end) { end += 1; }
            text.replace_range(start..end, &with);
        }
        all_loaders(&text);
    }

    #[test]
    fn on_valid_documents_with_lines_exchanged(which in 0..3_usize, swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6)) {
        let mut lines: Vec<&str> = VALID[which].lines().collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        all_loaders(&lines.join("\n"));
    }

    #[test]
    fn on_any_flags(subnet in "[0-9a-f.:/,]{0,40}", endpoint in "[a-z0-9.:\\[\\]]{0,20}", version in "[v0-9.a-z-]{0,12}") {
        let flags = InitFlags {
            pod_network_cidr: Some(subnet.clone()),
            service_cidr: Some(subnet.chars().rev().collect()),
            control_plane_endpoint: Some(endpoint),
            kubernetes_version: Some(version),
            ..InitFlags::default()
        };
        let _ = load_init(&flags, None, None, &facts(), &bundle()).map_err(|problems| problems.to_string());
    }

    #[test]
    fn on_subnets_of_any_size(a in 0..33_u8, b in 0..33_u8, c in 0..129_u8, d in 0..129_u8, masks: [Option<u8>; 2]) {
        let mut config = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n  \
             podSubnet: 10.0.0.0/{a},fd00::/{c}\n  serviceSubnet: 172.16.0.0/{b},fd01::/{d}\ncontrollerManager:\n  extraArgs:\n"
        );
        for (family, mask) in ["ipv4", "ipv6"].iter().zip(masks) {
            let mask = mask.map_or_else(|| "none".to_owned(), |mask| mask.to_string());
            config += &format!("  - {{name: node-cidr-mask-size-{family}, value: \"{mask}\"}}\n");
        }
        let flags = InitFlags::default();
        let told = load_init(&flags, Some(("x.yaml", &config)), None, &facts(), &bundle()).map_err(|problems| problems.to_string());
        assert!(!told.is_err_and(|told| told.contains("YAML")), "{config}");
    }
}
