//! Roles and bindings of a kubeadm cluster (contract A.8).

use std::sync::Arc;
use std::time::Duration;

use kprov_providers::Key;
use kprov_providers::kube::lend::{Lend, TakeBack};
use kprov_providers::kube::objects::{Apply, Object};
use kprov_providers::kube::{Api, Place};
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

/// Key of the step that lends the right to lead.
pub(crate) fn lent() -> Key {
    Key::new("rbac/leaders")
}

/// The right to lead, lent to controller manager and scheduler until the API server has made their own roles: refused
/// once, they would ask for their leases only four seconds later, and nothing in the cluster would move until then.
/// `needs`: the API server listens; `made`: it has made its roles.
///
/// # Errors
/// None that these objects can cause.
pub(crate) fn leaders(
    api: &Arc<Api>,
    phase: &str,
    needs: &[Key],
    made: &Key,
    patience: Duration,
) -> anyhow::Result<Plan> {
    let name = "kprov:first-leaders";
    let metadata = json!({"name": name, "namespace": "kube-system"});
    let names = ["kube-controller-manager", "kube-scheduler"];
    let users = [Subject::User("system:kube-controller-manager"), Subject::User("system:kube-scheduler")];
    let leases = |verbs: Value| json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs});
    let mut own = leases(json!(["get", "update"]));
    if let Some(rule) = own.as_object_mut() {
        rule.insert("resourceNames".into(), json!(names));
    }
    let objects = [
        json!({"apiVersion": VERSION, "kind": "Role", "metadata": metadata, "rules": [leases(json!(["create"])), own]}),
        json!({
            "apiVersion": VERSION,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name},
            "subjects": users.iter().map(subject).collect::<Vec<_>>(),
        }),
    ];
    let what = "the right to lead to controller manager and scheduler";
    let places = objects.iter().rev().map(Place::of).collect::<anyhow::Result<Vec<_>>>()?;
    let mut plan = Plan::new();
    plan.add(Lend {
        label: Label::new(lent(), phase).needs(needs.iter().cloned()),
        api: api.clone(),
        what: what.into(),
        objects: objects.into_iter().map(Object::new).collect(),
        // The last of the two that is made.
        until: Place {
            api_version: VERSION.into(),
            kind: "ClusterRoleBinding".into(),
            namespace: None,
            name: "system:kube-scheduler".into(),
        },
        patience,
    });
    plan.add(TakeBack {
        label: Label::new("rbac/leaders-back", phase).needs([lent(), made.clone()]),
        api: api.clone(),
        what: what.into(),
        places,
    });
    Ok(plan)
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
