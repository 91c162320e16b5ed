// Draws a Grafana dashboard with Grafana's own components, on the answers of a Prometheus.
import { Global } from "@emotion/react";
import {
  applyFieldOverrides, createTheme, dateTime, FieldColorModeId, FieldType, getFieldDisplayValues, LoadingState, rangeUtil,
  ThresholdsMode, toDataFrame, type DataFrame, type FieldConfigSource, type TimeRange,
} from "@grafana/data";
import { BigValue, GlobalStyles, Icon, InlineFormLabel, PanelChrome, PanelContextProvider, RefreshPicker, ThemeContext, TimeRangePicker, TimeSeries, ToolbarButton } from "@grafana/ui";
import React from "react";
import { createRoot } from "react-dom/client";
import "uplot/dist/uPlot.min.css";

declare global {
  interface Window { input: { dashboard: any; from: string; scrape: string }; report?: { refused: string[]; empty: string[]; error?: string } }
}
const { dashboard, from, scrape } = window.input;
const report = { refused: [] as string[], empty: [] as string[] };
const theme = createTheme({ colors: { mode: "dark" } });
const WIDTH = 1600, EDGE = 16, GAP = 8, CELL = 30;

// The defaults of Grafana's panels `stat` and `timeseries`, which their JSON leaves out (public/app/plugins/panel of Grafana).
const THRESHOLDS = { mode: ThresholdsMode.Absolute, steps: [{ value: -Infinity, color: "green" }, { value: 80, color: "red" }] };
const LINES = {
  drawStyle: "line", lineInterpolation: "linear", lineWidth: 1, fillOpacity: 0, gradientMode: "none", spanNulls: false, showPoints: "auto",
  pointSize: 5, stacking: { mode: "none", group: "A" }, axisPlacement: "auto", axisGridShow: true, axisLabel: "", scaleDistribution: { type: "linear" },
  hideFrom: { tooltip: false, viz: false, legend: false }, thresholdsStyle: { mode: "off" },
};

function fieldConfig(panel: any): FieldConfigSource {
  const own = panel.fieldConfig.defaults;
  const steps = own.thresholds?.steps.map((step: any) => ({ ...step, value: step.value ?? -Infinity }));
  const color = own.color ?? { mode: panel.type === "timeseries" ? FieldColorModeId.PaletteClassic : FieldColorModeId.Thresholds };
  const custom = panel.type === "timeseries" ? { ...LINES, ...own.custom } : {};
  return { defaults: { ...own, color, custom, thresholds: steps ? { ...own.thresholds, steps } : THRESHOLDS }, overrides: panel.fieldConfig.overrides };
}

/** The variables with their defaults: `All` is its `allValue`. */
function variables(text: string): string {
  for (const variable of dashboard.templating.list) {
    const { value } = variable.current ?? {};
    const now = value === "$__all" ? variable.allValue ?? ".*" : value ?? "";
    text = text.replaceAll(`\${${variable.name}}`, now).replaceAll(`$${variable.name}`, now);
  }
  return text;
}

/** The values of a variable must exist too, or Grafana shows an empty list. */
async function askVariable({ name, query }: any) {
  const [, series, label] = query.query.match(/^label_values\((.+), *(\w+)\)$/);
  const answer = await (await fetch(`/api/v1/label/${label}/values?${new URLSearchParams({ "match[]": variables(series) })}`)).json();
  if (answer.status !== "success") report.refused.push(`variable ${name}: ${answer.error}`);
  else if (answer.data.length === 0) report.empty.push(`variable ${name}: ${query.query}`);
}

function legend(format: string | undefined, labels: Record<string, string>): string {
  if (format && format !== "__auto") return format.replace(/\{\{\s*(\S+?)\s*\}\}/g, (_, name) => labels[name] ?? "");
  const { __name__ = "", ...rest } = labels;
  return `${__name__}{${Object.entries(rest).map(([name, value]) => `${name}="${value}"`).join(", ")}}`;
}

/** The frames of a panel, as Grafana's data source makes them: one per series, a point per step. */
async function ask(panel: any, range: TimeRange, width: number): Promise<DataFrame[]> {
  const interval = Math.max(rangeUtil.calculateInterval(range, Math.floor(width), scrape).intervalMs, rangeUtil.intervalToMs(scrape));
  const rate = Math.max(interval + rangeUtil.intervalToMs(scrape), 4 * rangeUtil.intervalToMs(scrape));
  const step = interval / 1000, first = Math.floor(range.from.unix() / step) * step, last = Math.floor(range.to.unix() / step) * step;
  const frames: DataFrame[] = [];
  for (const target of panel.targets) {
    const query = variables(target.expr).replaceAll("$__rate_interval", `${rate / 1000}s`).replaceAll("$__interval", `${step}s`);
    const address = target.instant ? `query?${new URLSearchParams({ query, time: `${last}` })}`
      : `query_range?${new URLSearchParams({ query, start: `${first}`, end: `${last}`, step: `${step}` })}`;
    const answer = await (await fetch(`/api/v1/${address}`)).json();
    if (answer.status !== "success") report.refused.push(`${panel.title} (${target.refId}): ${answer.error}: ${query}`);
    const series = answer.data?.result ?? [];
    if (series.length === 0) report.empty.push(`${panel.title} (${target.refId}): ${query}`);
    for (const { metric, values, value } of series) {
      const points = new Map<number, number>((values ?? [value]).map(([at, text]: [number, string]) => [at, Number(text)]));
      const times = target.instant ? [...points.keys()] : Array.from({ length: Math.round((last - first) / step) + 1 }, (_, i) => first + i * step);
      frames.push(toDataFrame({
        refId: target.refId,
        fields: [
          { name: "Time", type: FieldType.time, values: times.map((at) => at * 1000), config: { interval } },
          { name: "Value", type: FieldType.number, values: times.map((at) => points.get(at) ?? null), labels: metric, config: { displayNameFromDS: legend(target.legendFormat, metric) } },
        ],
      }));
    }
  }
  const source = fieldConfig(panel);
  for (const frame of frames) frame.fields[1].config = { ...source.defaults, ...frame.fields[1].config };
  return applyFieldOverrides({ data: frames, fieldConfig: source, theme, replaceVariables: variables, timeZone: "browser" });
}

function Content({ panel, frames, range, width, height }: { panel: any; frames: DataFrame[]; range: TimeRange; width: number; height: number }) {
  if (frames.length === 0) return <div style={{ height, display: "grid", placeItems: "center", color: theme.colors.text.secondary }}>No data</div>;
  if (panel.type === "timeseries") {
    return <TimeSeries frames={frames} timeRange={range} timeZone="browser" width={width} height={height} legend={{ calcs: [], ...panel.options.legend }} options={panel.options} />;
  }
  if (panel.type !== "stat") throw new Error(`${panel.title}: panels of type ${panel.type} are not drawn`);
  const { reduceOptions, colorMode, graphMode } = panel.options;
  const values = getFieldDisplayValues({ data: frames, fieldConfig: fieldConfig(panel), reduceOptions, replaceVariables: variables, sparkline: graphMode !== "none", theme, timeZone: "browser" });
  return values.map(({ display, sparkline }, i) => (
    <BigValue key={i} theme={theme} value={values.length > 1 ? display : { ...display, title: undefined }} sparkline={sparkline} colorMode={colorMode} graphMode={graphMode} width={width / values.length} height={height} />
  ));
}

function place({ x, y, w, h }: { x: number; y: number; w: number; h: number }) {
  const column = (WIDTH - 2 * EDGE + GAP) / 24;
  return { left: EDGE + x * column, top: y * (CELL + GAP), width: w * column - GAP, height: h * (CELL + GAP) - GAP };
}

function Dashboard({ panels, range }: { panels: { panel: any; frames: DataFrame[] }[]; range: TimeRange }) {
  const none = () => {};
  const bottom = Math.max(...panels.map(({ panel }) => panel.gridPos.y + panel.gridPos.h));
  return (
    <div style={{ width: WIDTH }}>
      <div style={{ display: "flex", alignItems: "center", gap: 8, padding: `12px ${EDGE}px`, borderBottom: `1px solid ${theme.colors.border.weak}`, background: theme.colors.background.primary }}>
        <Icon name="apps" /><span style={{ color: theme.colors.text.secondary }}>Dashboards</span><Icon name="angle-right" /><span style={{ fontWeight: 500, flex: 1 }}>{dashboard.title}</span>
        <TimeRangePicker value={range} timeZone="browser" onChange={none} onChangeTimeZone={none} onMoveBackward={none} onMoveForward={none} onZoom={none} isOnCanvas />
        <RefreshPicker value={dashboard.refresh} onIntervalChanged={none} isOnCanvas />
      </div>
      <div style={{ display: "flex", gap: 16, padding: `${EDGE}px ${EDGE}px 12px` }}>
        {dashboard.templating.list.map((variable: any) => (
          <div key={variable.name} style={{ display: "flex" }}>
            <InlineFormLabel width="auto">{variable.label}</InlineFormLabel>
            <ToolbarButton variant="canvas" isOpen={false}>{variable.current?.text ?? variable.query}</ToolbarButton>
          </div>
        ))}
      </div>
      <div style={{ position: "relative", height: bottom * (CELL + GAP) + EDGE }}>
        {panels.map(({ panel, frames }) => {
          const { left, top, width, height } = place(panel.gridPos);
          return (
            <div key={panel.id} style={{ position: "absolute", left, top, width, height }}>
              {panel.type === "row" ? <h4 style={{ margin: 0, lineHeight: `${height}px` }}><Icon name="angle-down" /> {panel.title}</h4> : (
                <PanelChrome title={panel.title} description={panel.description} width={width} height={height} padding={panel.type === "stat" ? "none" : "md"} loadingState={LoadingState.Done}>
                  {(inner, innerHeight) => <Content panel={panel} frames={frames} range={range} width={inner} height={innerHeight} />}
                </PanelChrome>
              )}
            </div>
          );
        })}
      </div>
    </div>
  );
}

async function main() {
  const raw = { from, to: dashboard.time.to };
  const range = { ...rangeUtil.convertRawToRange(raw), raw };
  for (const variable of dashboard.templating.list) if (variable.type === "query") await askVariable(variable);
  const panels = [];
  for (const panel of dashboard.panels) panels.push({ panel, frames: panel.type === "row" ? [] : await ask(panel, range, place(panel.gridPos).width) });
  const context = { eventsScope: "global", eventBus: { subscribe: none, getStream: () => ({ subscribe: none, pipe: () => ({ subscribe: none }) }), publish: none, removeAllListeners: none, newScopedBus: none } as any };
  createRoot(document.getElementById("root")!).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles /><Global styles={{ body: { background: theme.colors.background.canvas, margin: 0, overflow: "auto" } }} />
      <PanelContextProvider value={context}><Dashboard panels={panels} range={range} /></PanelContextProvider>
    </ThemeContext.Provider>,
  );
  await document.fonts.ready;
  setTimeout(() => { window.report = report; }, 2000);
}
function none(): any { return { unsubscribe() {} }; }
main().catch((error) => { window.report = { ...report, error: String(error?.stack ?? error) }; });
