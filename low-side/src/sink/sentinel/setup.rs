//! What the workspace needs before it takes rows, as text: an agent has no rights over it.

use shared::bell::Bell;
use shared::record::RecordId;

use super::config::SentinelConfig;
use crate::sink::SinkError;

/// The commands of the Azure CLI, with the names of the configuration.
pub(in crate::sink) fn setup(config: &SentinelConfig, name: &str) -> String {
    let SentinelConfig { tenant, client_id, client_secret_file, rule, http, arm, .. } = config;
    let drift = if arm.is_some() {
        "The columns of the rule are compared with ours before anything is sent.\n"
    } else {
        "arm-url is not set: a column that the rule lacks is dropped, and nobody sees it. Set it to\n\
         https://management.azure.com and the id of the rule, with the role Monitoring Reader.\n"
    };
    format!(
        "# nothing is changed from here; with the Azure CLI, signed in to the tenant {tenant}:\n\
         \n\
         # tables and rule\n\
         az deployment group create --resource-group RESOURCE-GROUP \\\n\
         \x20 --template-file {TEMPLATE} \\\n\
         \x20 --parameters workspaceName=WORKSPACE ruleName=penstock\n\
         # its outputs are url (now {url}), dcr (now {rule}) and arm-url\n\
         \n\
         # the application, and the right to send to this rule and nothing else\n\
         az ad app create --display-name penstock          # its appId is client-id, now {client_id}\n\
         az ad sp create --id {client_id}\n\
         az role assignment create --assignee {client_id} --role 'Monitoring Metrics Publisher' --scope RULE-ID\n\
         az role assignment create --assignee {client_id} --role 'Monitoring Reader' --scope RULE-ID   # for arm-url\n\
         \n\
         # the secret, here: one line, readable for the agent alone\n\
         (umask 077; az ad app credential reset --id {client_id} --append --query password -o tsv > {secret})\n\
         \n\
         # then; the rights take up to half an hour\n\
         penstock-low check {name}\n\
         \n\
         {drift}",
        url = http.url,
        secret = client_secret_file.display(),
    )
}

/// Whether a record can be found: the application may send, and not search.
#[expect(clippy::unnecessary_wraps, reason = "every sink answers like this")]
pub(in crate::sink) fn find(
    _config: &SentinelConfig,
    _bell: &Bell,
    _id: &RecordId,
) -> Result<Option<bool>, SinkError> {
    Ok(None)
}

const TEMPLATE: &str = "packaging/siem/sentinel/azuredeploy.json";
