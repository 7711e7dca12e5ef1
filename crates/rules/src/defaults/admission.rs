//! Defaults of admission webhooks and policies.

use super::fill::{each, set};
use serde_json::{Value, json};

/// A ValidatingWebhookConfiguration or a MutatingWebhookConfiguration.
pub(super) fn webhooks(obj: &mut Value, mutating: bool) {
    each(obj, "/webhooks", |webhook| {
        set(webhook, "failurePolicy", "Fail");
        set(webhook, "timeoutSeconds", 10);
        if mutating {
            set(webhook, "reinvocationPolicy", "Never");
        }
        matched(webhook);
        each(webhook, "/rules", |rule| set(rule, "scope", "*"));
        if let Some(service) = webhook.pointer_mut("/clientConfig/service").filter(|service| service.is_object()) {
            set(service, "port", 443);
        }
    });
}

/// A ValidatingAdmissionPolicy.
pub(super) fn policy(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set(spec, "failurePolicy", "Fail");
    if let Some(constraints) = spec.get_mut("matchConstraints").filter(|constraints| constraints.is_object()) {
        resources(constraints);
    }
}

/// A ValidatingAdmissionPolicyBinding.
pub(super) fn binding(obj: &mut Value) {
    if let Some(matched) = obj.pointer_mut("/spec/matchResources").filter(|matched| matched.is_object()) {
        resources(matched);
    }
}

fn resources(constraints: &mut Value) {
    matched(constraints);
    for rules in ["/resourceRules", "/excludeResourceRules"] {
        each(constraints, rules, |rule| set(rule, "scope", "*"));
    }
}

fn matched(of: &mut Value) {
    set(of, "matchPolicy", "Equivalent");
    set(of, "namespaceSelector", json!({}));
    set(of, "objectSelector", json!({}));
}
