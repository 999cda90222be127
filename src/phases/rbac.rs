//! Roles and bindings of a kubeadm cluster (contract A.8).

use std::sync::Arc;
use std::time::Duration;

use kprov_providers::Key;
use kprov_providers::kube::Api;
use kprov_providers::kube::objects::{Apply, Object};
use kprov_providers::steps::Label;
use serde_json::{Value, json};

use crate::plan::Plan;

/// Machines that join with a bootstrap token.
pub(crate) const BOOTSTRAPPERS: Subject = Subject::Group("system:bootstrappers:kubeadm:default-node-token");
/// Nodes that have joined.
pub(crate) const NODES: Subject = Subject::Group("system:nodes");
/// API group of roles.
const GROUP: &str = "rbac.authorization.k8s.io";
/// Its version.
const VERSION: &str = "rbac.authorization.k8s.io/v1";

/// To whom a role is given.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    Group(&'static str),
    User(&'static str),
    /// Of kube-system.
    Account(&'static str),
}

fn subject(subject: &Subject) -> Value {
    match subject {
        Subject::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Subject::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        Subject::Account(name) => json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"}),
    }
}

/// A ClusterRoleBinding.
pub(crate) fn cluster_binding(name: &str, role: &str, subjects: &[Subject]) -> Value {
    json!({
        "apiVersion": VERSION,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": subjects.iter().map(subject).collect::<Vec<_>>(),
    })
}

/// A ClusterRole.
pub(crate) fn cluster_role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": VERSION, "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
}

/// A Role that may get one ConfigMap, and its RoleBinding of the same name.
pub(crate) fn config_map_reader(name: &str, namespace: &str, map: &str, subjects: &[Subject]) -> [Value; 2] {
    let metadata = json!({"name": name, "namespace": namespace});
    [
        json!({
            "apiVersion": VERSION,
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": ["get"]}],
        }),
        json!({
            "apiVersion": VERSION,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name},
            "subjects": subjects.iter().map(subject).collect::<Vec<_>>(),
        }),
    ]
}

/// The rights of admin.conf and of the API server as the kubelets' client.
pub(crate) fn admins(api: &Arc<Api>, phase: &str, needs: &[Key], patience: Duration) -> Plan {
    let objects = [
        cluster_binding("kubeadm:cluster-admins", "cluster-admin", &[Subject::Group("kubeadm:cluster-admins")]),
        cluster_binding(
            "kubeadm:apiserver-kubelet-client",
            "system:kubelet-api-admin",
            &[Subject::User("kube-apiserver-kubelet-client")],
        ),
    ];
    let mut plan = Plan::new();
    plan.add(Apply {
        label: Label::new("rbac/admins", phase).needs(needs.iter().cloned()),
        api: api.clone(),
        what: "the rights of admin.conf".into(),
        objects: objects.into_iter().map(Object::new).collect(),
        patience,
    });
    plan
}
