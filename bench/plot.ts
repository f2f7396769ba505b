import * as echarts from 'echarts'
import { summarize } from '../tools/statistics.ts'
import { fastestBaseline, gather } from './report.ts'
import { BASELINE, type LoadName, loads, type Results } from './results.ts'

const PANEL = { width: 380, height: 240, gap: 70, top: 110 }
const panelRows = [
  { column: 'imagesPerSecond', title: 'images/s', type: 'value' },
  { column: 'p99', title: 'p99 latency, ms', type: 'log' },
] as const

/** Throughput and 99th percentile latency by number of clients, one column of panels per load, as SVG. */
export function plot(results: Results): string {
  const medians = gather(results.rows)
  const names = (Object.keys(loads) as LoadName[]).filter((load) => medians.some((median) => median.load === load))
  const clients = [...new Set(medians.map((median) => median.clients))].toSorted((a, b) => a - b)
  const servers = results.entries.filter(({ name }) => name !== BASELINE)
  const panels = panelRows.flatMap((row, y) => names.map((load, x) => ({ ...row, load, x, y })))
  const width = PANEL.gap + names.length * (PANEL.width + PANEL.gap)
  const height = PANEL.top + panelRows.length * (PANEL.height + PANEL.gap)
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width, height })
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    legend: { top: 10, itemGap: 40 },
    title: panels
      .filter(({ y }) => y === 0)
      .map(({ load, x }) => ({
        text: loads[load].title,
        textStyle: { fontSize: 14 },
        left: leftOf(x),
        top: PANEL.top - 60,
      })),
    grid: panels.map(({ x, y }) => ({
      left: leftOf(x),
      top: PANEL.top + y * (PANEL.height + PANEL.gap),
      width: PANEL.width,
      height: PANEL.height,
    })),
    xAxis: panels.map((_, gridIndex) => ({
      gridIndex,
      data: clients,
      name: 'clients',
      nameLocation: 'middle',
      nameGap: 28,
    })),
    yAxis: panels.map(({ title, type }, gridIndex) => ({ gridIndex, type, name: title })),
    series: panels.flatMap(({ load, column }, panel) => {
      const axes = { xAxisIndex: panel, yAxisIndex: panel, type: 'line' as const }
      const lines = servers.map(({ name, title }) => {
        const own = medians.filter((median) => median.contestant === name && median.load === load)
        const values = clients.map((count) => own.find((median) => median.clients === count)?.values[column])
        return { ...axes, name: title, data: values.map(middle) }
      })
      const baseline = middle(fastestBaseline(results.baseline, load, true).map((row) => row.imagesPerSecond))
      if (column !== 'imagesPerSecond' || baseline === null) return lines
      const level = { ...axes, name: 'baseline', showSymbol: false, data: clients.map(() => baseline) }
      return [...lines, { ...level, color: '#000000', lineStyle: { type: 'dashed' as const } }]
    }),
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}

function leftOf(column: number): number {
  return PANEL.gap + column * (PANEL.width + PANEL.gap)
}

function middle(values: number[] = []): number | null {
  return values.length === 0 ? null : summarize(values).median
}
