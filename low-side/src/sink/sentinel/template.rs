//! The template in `packaging/siem/sentinel/`: made from the same list as rows are.
//!
//! Sources: Microsoft, "Microsoft.OperationalInsights workspaces/tables" (2022-10-01) and
//! "Microsoft.Insights dataCollectionRules" (2023-03-11), template references.

use serde_json::{Value, json};

use crate::mapping::sentinel::Table;

const PATH: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/siem/sentinel/azuredeploy.json");

fn template() -> Value {
    let rule_id = "resourceId('Microsoft.Insights/dataCollectionRules', parameters('ruleName'))";
    let tables = Table::ALL.map(|table| {
        let columns = table.columns().map(|column| {
            // Tables and rules write this type differently.
            let kind = column.kind.as_str();
            let kind = if kind == "datetime" { "dateTime" } else { kind };
            json!({ "name": column.name, "type": kind })
        });
        let columns: Vec<Value> = columns.collect();
        json!({
            "type": "Microsoft.OperationalInsights/workspaces/tables",
            "apiVersion": "2022-10-01",
            "name": format!("[concat(parameters('workspaceName'), '/{}')]", table.name),
            "properties": {
                "plan": "Analytics",
                "retentionInDays": "[parameters('retentionInDays')]",
                "schema": { "name": table.name, "columns": columns },
            },
        })
    });
    let declarations: serde_json::Map<String, Value> = Table::ALL
        .iter()
        .map(|table| {
            let columns = table.columns();
            let columns: Vec<Value> = columns
                .map(|column| json!({ "name": column.name, "type": column.kind.as_str() }))
                .collect();
            (table.stream.to_owned(), json!({ "columns": columns }))
        })
        .collect();
    let flows = Table::ALL.map(|table| {
        json!({
            "streams": [table.stream],
            "destinations": ["workspace"],
            "transformKql": "source",
            "outputStream": table.stream,
        })
    });
    let depends = Table::ALL.map(|table| {
        let name = table.name;
        format!("[resourceId('Microsoft.OperationalInsights/workspaces/tables', parameters('workspaceName'), '{name}')]")
    });
    let rule = json!({
        "type": "Microsoft.Insights/dataCollectionRules",
        "apiVersion": "2023-03-11",
        "name": "[parameters('ruleName')]",
        "location": "[parameters('location')]",
        "kind": "Direct",
        "dependsOn": depends,
        "properties": {
            "streamDeclarations": declarations,
            "destinations": { "logAnalytics": [{
                "name": "workspace",
                "workspaceResourceId": "[resourceId('Microsoft.OperationalInsights/workspaces', parameters('workspaceName'))]",
            }] },
            "dataFlows": flows,
        },
    });
    let output = |value: String| json!({ "type": "string", "value": value });
    let mut resources = tables.to_vec();
    resources.push(rule);
    json!({
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "metadata": { "description": "Tables and data collection rule for Penstock's sink of the type sentinel." },
        "parameters": {
            "workspaceName": { "type": "string", "metadata": { "description": "The Log Analytics workspace, in the resource group of the deployment." } },
            "ruleName": { "type": "string", "defaultValue": "penstock" },
            "location": { "type": "string", "defaultValue": "[resourceGroup().location]", "metadata": { "description": "The region of the workspace." } },
            "retentionInDays": { "type": "int", "defaultValue": 90, "minValue": 4, "maxValue": 730 },
        },
        "resources": resources,
        "outputs": {
            "url": output(format!("[reference({rule_id}).endpoints.logsIngestion]")),
            "dcr": output(format!("[reference({rule_id}).immutableId]")),
            "armUrl": output(format!("[concat(environment().resourceManager, substring({rule_id}, 1))]")),
        },
    })
}

/// Made again with `PENSTOCK_WRITE=1 cargo test -p low-side --lib sentinel::template`.
#[test]
fn the_template_has_the_columns_of_the_sink() {
    let wanted = serde_json::to_string_pretty(&template()).unwrap() + "\n";
    if std::env::var_os("PENSTOCK_WRITE").is_some() {
        std::fs::write(PATH, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(PATH).unwrap();
    assert!(found == wanted, "{PATH} differs: PENSTOCK_WRITE=1 makes it again");
}
