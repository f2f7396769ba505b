import { join } from 'node:path'
import ts from 'typescript'
import type { KubernetesObject } from './helm.ts'

/** Where the models of an API group are, of Kubernetes itself and of what is installed beside it. */
const modules: Record<string, string> = {
  'monitoring.coreos.com/v1': '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1',
  'keda.sh/v1alpha1': '@kubernetes-models/keda/keda.sh/v1alpha1',
}
const moduleOf = ({ apiVersion }: KubernetesObject) => modules[apiVersion] ?? `kubernetes-models/${apiVersion}`

type Model = new (data: KubernetesObject) => { validate(): void }

/**
 * What an API server would refuse of these objects: wrong types, missing fields, values out of range, and fields that do not
 * exist. For the last, which Kubernetes' own schemas allow, the objects are compiled as literals of the models' types.
 *
 * @returns a line per fault; empty if there is none
 */
export async function faultsOf(objects: readonly KubernetesObject[]): Promise<string[]> {
  const faults: string[] = []
  for (const object of objects) {
    const { [object.kind]: Kind } = (await import(moduleOf(object))) as Record<string, Model>
    if (Kind === undefined) faults.push(`${moduleOf(object)} has no ${object.kind}`)
    else {
      try {
        new Kind(object).validate()
      } catch (error) {
        faults.push(`${object.kind}: ${(error as Error).message}`)
      }
    }
  }
  return [...faults, ...typeFaults(objects)]
}

function typeFaults(objects: readonly KubernetesObject[]): string[] {
  const source = objects
    .map((object, i) => {
      const name = `I${object.kind}`
      const type = `import('${moduleOf(object)}').${name}`
      return `export const object${i}: ${type} = ${JSON.stringify(object, null, 1)}`
    })
    .join('\n')
  const file = join(import.meta.dirname, 'rendered-objects.ts')
  const options: ts.CompilerOptions = {
    ...{
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.NodeNext,
      moduleDetection: ts.ModuleDetectionKind.Force,
    },
    ...{ strict: true, noEmit: true, skipLibCheck: true, types: [] },
  }
  const host = ts.createCompilerHost(options)
  const { fileExists, getSourceFile } = host
  host.fileExists = (name) => name === file || fileExists(name)
  host.getSourceFile = (name, language) =>
    name === file ? ts.createSourceFile(name, source, language) : getSourceFile(name, language)
  const program = ts.createProgram([file], options, host)
  return ts.getPreEmitDiagnostics(program).map(({ messageText, file, start }) => {
    const line =
      file === undefined ? '' : (source.split('\n')[file.getLineAndCharacterOfPosition(start ?? 0).line] ?? '')
    return `${ts.flattenDiagnosticMessageText(messageText, ' ')} at ${line.trim()}`
  })
}
