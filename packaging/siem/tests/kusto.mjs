// Reads {"tables": {NAME: {COLUMN: TYPE}}, "queries": {NAME: KQL}} and prints what Microsoft's own parser says
// against each query, one line each. The package is loaded from the folder that is named as argument.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(process.argv[2] + "/");
require("@kusto/language-service-next/bridge.min.js");
require("@kusto/language-service-next/Kusto.Language.Bridge.min.js");
const { GlobalState, KustoCode, Symbols } = Kusto.Language;

const { tables, queries } = JSON.parse(readFileSync(0, "utf8"));
const symbols = Object.entries(tables).map(([name, columns]) =>
    Symbols.TableSymbol.From("(" + Object.entries(columns).map(([column, type]) => `${column}: ${type}`).join(", ") + ")").WithName(name));
const database = new Symbols.DatabaseSymbol.$ctor1("db", symbols);
const globals = GlobalState.Default.WithDatabase(database);
for (const [name, text] of Object.entries(queries)) {
    const found = KustoCode.ParseAndAnalyze(text, globals).GetDiagnostics();
    for (let at = 0; at < found.Count; at++) {
        const each = found.getItem(at);
        console.log(`${name}: ${each.Message} at ${JSON.stringify(text.substr(each.Start, each.Length))}`);
    }
}
