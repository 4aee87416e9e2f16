// Reads AsyncAPI documents with AsyncAPI's own parser: `node parse.mjs FOLDER FILE...`, FOLDER being where
// ./install put it. Prints what it has against each, and the document with every reference followed.
import { createRequire } from 'node:module';

const [folder, ...files] = process.argv.slice(2);
const { Parser, fromFile } = createRequire(`${folder}/`)('@asyncapi/parser');
const parsed = [];
for (const file of files) {
  const { document, diagnostics } = await fromFile(new Parser(), file).parse();
  parsed.push({
    diagnostics: diagnostics.map(({ severity, code, path, message }) => ({ severity, code, path: path.join('.'), message })),
    document: document?.json() ?? null,
  });
}
process.stdout.write(JSON.stringify(parsed));
